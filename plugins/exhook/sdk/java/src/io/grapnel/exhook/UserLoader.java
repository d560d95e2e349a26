package io.grapnel.exhook;

import java.io.IOException;
import java.net.MalformedURLException;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * Finds users' classes in folders, archives (jars and zips) and sources. The worker creates it
 * while it loads; classes are also found later, on first use. Classes of this jar's own libraries
 * (MessagePack) do not hide users' classes.
 */
final class UserLoader extends URLClassLoader {
    private final List<Path> folders;
    private final Map<String, byte[]> compiled = new HashMap<>();
    private final Sources sources;

    static {
        registerAsParallelCapable();
    }

    /** A loader for the entries of {@code path}. Throws {@link LoadError} if one does not exist. */
    static UserLoader over(Collection<String> entries) throws LoadError {
        Set<Path> folders = new LinkedHashSet<>();
        Set<Path> jars = new LinkedHashSet<>();
        for (String entry : entries) {
            for (String part : entry.split(":")) {
                if (!part.isEmpty()) {
                    addPart(Path.of(part), folders, jars);
                }
            }
        }
        List<URL> urls = new ArrayList<>();
        try {
            for (Path folder : folders) {
                urls.add(folder.toUri().toURL());
                try (DirectoryStream<Path> files = Files.newDirectoryStream(folder, "*.{jar,zip}")) {
                    List<Path> sorted = new ArrayList<>();
                    files.forEach(file -> sorted.add(file));
                    sorted.stream().sorted().forEach(jars::add);
                }
            }
            for (Path jar : jars) {
                urls.add(jar.toUri().toURL());
            }
        } catch (MalformedURLException error) {
            throw new LoadError("path cannot be searched: " + error.getMessage());
        } catch (IOException error) {
            throw new LoadError("path cannot be read: " + error);
        }
        return new UserLoader(urls, List.copyOf(folders), List.copyOf(jars));
    }

    private static void addPart(Path part, Set<Path> folders, Set<Path> jars) throws LoadError {
        if (!Files.exists(part)) {
            throw new LoadError("path " + part
                    + " does not exist; name a folder with classes, a jar, or a file, whose folder is searched");
        }
        Path absolute = part.toAbsolutePath().normalize();
        if (Files.isDirectory(absolute)) {
            folders.add(absolute);
        } else if (absolute.toString().endsWith(".jar") || absolute.toString().endsWith(".zip")) {
            jars.add(absolute);
        } else {
            folders.add(absolute.getParent());
        }
    }

    private UserLoader(List<URL> urls, List<Path> folders, List<Path> jars) {
        super(urls.toArray(new URL[0]), UserLoader.class.getClassLoader());
        this.folders = folders;
        this.sources = new Sources(folders, jars);
    }

    @Override
    protected Class<?> loadClass(String name, boolean resolve) throws ClassNotFoundException {
        if (name.startsWith("org.msgpack.")) {
            synchronized (getClassLoadingLock(name)) {
                Class<?> known = findLoadedClass(name);
                try {
                    return known != null ? known : findClass(name);
                } catch (ClassNotFoundException notTheirs) {
                    return super.loadClass(name, resolve);
                }
            }
        }
        return super.loadClass(name, resolve);
    }

    @Override
    protected Class<?> findClass(String name) throws ClassNotFoundException {
        byte[] bytes;
        synchronized (compiled) {
            bytes = compiled.get(name);
            if (bytes == null) {
                Path source = newerSource(name);
                if (source != null) {
                    try {
                        sources.compile(source).forEach(compiled::putIfAbsent);
                    } catch (LoadError error) {
                        throw new ClassNotFoundException(name, error);
                    }
                    bytes = compiled.get(name);
                }
            }
        }
        return bytes == null ? super.findClass(name) : defineClass(name, bytes, 0, bytes.length);
    }

    /** The source of a class whose class file is missing or older, if there is one. */
    private Path newerSource(String name) {
        String file = name.replace('.', '/');
        for (Path folder : folders) {
            Path source = folder.resolve(file + ".java");
            Path binary = folder.resolve(file + ".class");
            if (Files.isRegularFile(source)) {
                try {
                    boolean old = !Files.isRegularFile(binary)
                            || Files.getLastModifiedTime(source).compareTo(Files.getLastModifiedTime(binary)) > 0;
                    return old ? source : null;
                } catch (IOException error) {
                    return source;
                }
            } else if (Files.isRegularFile(binary)) {
                return null;
            }
        }
        return null;
    }

    /** The searched places, for messages. */
    String searched() {
        String all = Stream.of(getURLs()).map(URL::getPath).collect(Collectors.joining(", "));
        return all.isEmpty() ? "nothing, path is empty" : all;
    }
}
