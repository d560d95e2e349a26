package erlport.terms;

/** {@link com.erlport.erlang.term.Atom} under its name in EMQX 4.1's first jar. Hooks get this class. */
public class Atom extends com.erlport.erlang.term.Atom {
    /** An atom of this text. */
    public Atom(String value) {
        super(value);
    }
}
