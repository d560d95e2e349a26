package io.grapnel.exhook;

import java.io.File;
import java.io.IOException;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import javax.tools.JavaCompiler;
import javax.tools.StandardJavaFileManager;
import javax.tools.ToolProvider;

/**
 * Compiles users' sources if a JDK is available, otherwise explains how to compile them by hand.
 * Used by the class loader.
 */
final class Sources {
    private static final int MESSAGES_CHARS_MAX = 4000;

    private final List<Path> folders;
    private final List<Path> jars;

    Sources(List<Path> folders, List<Path> jars) {
        this.folders = folders;
        this.jars = jars;
    }

    /**
     * Compiles a source, and other sources that it needs whose class files are missing or older. No
     * file remains on the disk. Returns the classes by name. Throws {@link LoadError} with the
     * compiler's messages.
     */
    Map<String, byte[]> compile(Path source) throws LoadError {
        JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
        if (compiler == null) {
            throw new LoadError(source + " has to be compiled, and the Java in " + System.getProperty("java.home")
                    + " has no compiler; install a JDK, or compile it yourself: javac -cp " + ourJar() + " " + source);
        }
        try {
            Path to = Files.createTempDirectory("grapnel-exhook-");
            try {
                run(compiler, source, to);
                return classesIn(to);
            } finally {
                delete(to);
            }
        } catch (IOException error) {
            throw new LoadError(source + " cannot be compiled: " + error);
        }
    }

    /** Needed sources are searched in the same folders as classes. */
    private void run(JavaCompiler compiler, Path source, Path to) throws IOException, LoadError {
        Stream<Path> theirs = Stream.concat(folders.stream(), jars.stream());
        String classPath = Stream.concat(Stream.of(ourJar()), theirs.map(Path::toString))
                .collect(Collectors.joining(File.pathSeparator));
        List<String> options = List.of(
                "-d", to.toString(), "-cp", classPath, "-implicit:class", "-proc:none",
                "-encoding", "UTF-8", "-g", "-nowarn");
        StringWriter messages = new StringWriter();
        try (StandardJavaFileManager files = compiler.getStandardFileManager(null, null, StandardCharsets.UTF_8)) {
            boolean done = compiler
                    .getTask(messages, files, null, options, null, files.getJavaFileObjects(source))
                    .call();
            if (!done) {
                String text = messages.toString().strip();
                throw new LoadError(source + " does not compile:\n"
                        + (text.length() <= MESSAGES_CHARS_MAX ? text : text.substring(0, MESSAGES_CHARS_MAX) + "…"));
            }
        }
    }

    private static Map<String, byte[]> classesIn(Path folder) throws IOException {
        Map<String, byte[]> classes = new HashMap<>();
        for (Path file : below(folder)) {
            String name = folder.relativize(file).toString();
            if (name.endsWith(".class")) {
                String dotted = name.substring(0, name.length() - ".class".length()).replace(File.separatorChar, '.');
                classes.put(dotted, Files.readAllBytes(file));
            }
        }
        return classes;
    }

    private static void delete(Path folder) throws IOException {
        List<Path> files = below(folder);
        files.sort(Comparator.reverseOrder());
        for (Path file : files) {
            Files.delete(file);
        }
    }

    private static List<Path> below(Path folder) throws IOException {
        try (Stream<Path> files = Files.walk(folder)) {
            return files.collect(Collectors.toCollection(ArrayList::new));
        }
    }

    /** The jar of this class. */
    private static String ourJar() {
        return System.getProperty("java.class.path");
    }
}
