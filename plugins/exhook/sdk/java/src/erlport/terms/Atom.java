package erlport.terms;

/** {@link com.erlport.erlang.term.Atom} by the name that EMQX 4.1's first jar had. Hooks get their atoms as these. */
public class Atom extends com.erlport.erlang.term.Atom {
    /** An atom of this text. */
    public Atom(String value) {
        super(value);
    }
}
