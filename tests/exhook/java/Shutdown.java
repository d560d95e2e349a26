import com.erlport.erlang.term.Binary;
import com.erlport.erlang.term.Tuple;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.List;
import java.util.logging.Logger;

/** Answers with its process number, and ends slowly, with lines, a log record, a file and an exception. */
public class Shutdown {
    public static Object init() {
        return Tuple.two(0, Tuple.two(List.of(Tuple.three("message_publish", "Shutdown", "publish")), null));
    }

    public static Object publish(Object message, Object state) {
        Binary process = new Binary(Long.toString(ProcessHandle.current().pid()));
        return Tuple.two(0, List.of(Tuple.two("payload", process)));
    }

    public static void deinit() throws Exception {
        // Longer than a shutdown that is not waited for may take.
        Thread.sleep(2200);
        for (int n = 0; n < 2000; n++) {
            System.out.println("last line " + n);
        }
        Logger.getLogger("shutdown").warning("all is closed");
        Path file = Path.of(System.getenv("FAREWELLS"));
        String line = ProcessHandle.current().pid() + "\n";
        Files.writeString(file, line, StandardOpenOption.CREATE, StandardOpenOption.APPEND);
        throw new IllegalStateException("failed on purpose");
    }
}
