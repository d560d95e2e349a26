package io.grapnel.exhook;

import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.lang.reflect.Constructor;
import java.lang.reflect.InvocationTargetException;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/**
 * A method of a user's class that is called for a hook. It is found by name and number of
 * parameters.
 */
final class Hook {
    /** Users' classes, with one instance of each for methods that are not static. */
    static final class Classes {
        private final UserLoader loader;
        private final Map<Class<?>, Object> instances = new HashMap<>();

        Classes(UserLoader loader) {
            this.loader = loader;
        }

        /**
         * The class of this name. Throws {@link LoadError}, or what the class throws while it is
         * loaded.
         */
        Class<?> named(String name, String whoNamesIt) throws LoadError {
            try {
                return Class.forName(name, true, loader);
            } catch (ClassNotFoundException error) {
                if (error.getCause() instanceof LoadError) {
                    // The class exists as a source that does not compile.
                    throw (LoadError) error.getCause();
                }
                throw new LoadError(whoNamesIt + " names class " + name + ", which is not in path; searched: "
                        + loader.searched());
            }
        }

        private Object instanceOf(Class<?> type, String method) throws Throwable {
            Object known = instances.get(type);
            if (known == null) {
                Constructor<?> constructor;
                try {
                    constructor = type.getDeclaredConstructor();
                } catch (NoSuchMethodException error) {
                    throw new LoadError(type.getName() + "." + method + " is not static, and " + type.getName()
                            + " has no constructor without parameters to make one with; make the method static");
                }
                if (Modifier.isAbstract(type.getModifiers())) {
                    throw new LoadError(type.getName() + "." + method + " is not static, and " + type.getName()
                            + " is abstract; make the method static");
                }
                constructor.setAccessible(true);
                try {
                    known = constructor.newInstance();
                } catch (InvocationTargetException error) {
                    throw error.getCause();
                }
                instances.put(type, known);
            }
            return known;
        }

        /** A method; null if the class has none of that name with this number of parameters. */
        Hook find(Class<?> type, String method, int parameters) throws Throwable {
            Method found = null;
            for (Method each : methodsOf(type)) {
                boolean fits = each.getName().equals(method) && each.getParameterCount() == parameters;
                if (fits && !each.isBridge() && (found == null || onlyObjects(each) && !onlyObjects(found))) {
                    found = each;
                }
            }
            if (found == null) {
                return null;
            }
            found.setAccessible(true);
            MethodHandle handle = MethodHandles.lookup().unreflect(found).asFixedArity();
            if (!Modifier.isStatic(found.getModifiers())) {
                handle = handle.bindTo(instanceOf(type, method));
            }
            handle = handle.asType(MethodType.genericMethodType(parameters)).asSpreader(Object[].class, parameters);
            return new Hook(type.getName() + "." + method, handle, parameters);
        }

        /** The numbers of parameters of the methods with this name, as text for a message. */
        static String counts(Class<?> type, String method) {
            return methodsOf(type).stream()
                    .filter(each -> each.getName().equals(method))
                    .map(each -> String.valueOf(each.getParameterCount()))
                    .distinct()
                    .sorted()
                    .collect(Collectors.joining(" and "));
        }

        private static List<Method> methodsOf(Class<?> type) {
            List<Method> methods = new ArrayList<>();
            for (Class<?> each = type; each != null && each != Object.class; each = each.getSuperclass()) {
                methods.addAll(Arrays.asList(each.getDeclaredMethods()));
            }
            methods.addAll(Arrays.asList(type.getMethods()));
            return methods;
        }

        private static boolean onlyObjects(Method method) {
            return Arrays.stream(method.getParameterTypes()).allMatch(type -> type == Object.class);
        }
    }

    /** Class and method, for messages. */
    final String label;
    /** Number of parameters. */
    final int parameters;

    private final MethodHandle handle;
    private List<String> topics = List.of();
    private Topics matcher = new Topics(List.of());

    private Hook(String label, MethodHandle handle, int parameters) {
        this.label = label;
        this.handle = handle;
        this.parameters = parameters;
    }

    /** Topic filters; a topic must match one of them. An empty list means all topics. */
    Hook onlyFor(List<String> filters) {
        topics = filters;
        matcher = new Topics(filters);
        return this;
    }

    List<String> topics() {
        return topics;
    }

    boolean matches(String topic) {
        return matcher.match(topic);
    }

    boolean isForEveryTopic() {
        return topics.isEmpty();
    }

    /** Calls it. Throws what it throws. */
    Object call(Object... arguments) throws Throwable {
        return (Object) handle.invokeExact(arguments);
    }
}
