package erlport.terms;

/** {@link com.erlport.erlang.term.Binary} under its name in EMQX 4.1's first jar. Hooks get this class. */
public class Binary extends com.erlport.erlang.term.Binary {
    /** These bytes, without a copy. */
    public Binary(byte[] bytes) {
        super(bytes);
    }

    /** The bytes of a text in UTF-8; none for null. */
    public Binary(String text) {
        super(text);
    }
}
