package erlport.terms;

/** {@link com.erlport.erlang.term.Tuple} under its name in EMQX 4.1's first jar. Hooks get this class. */
public class Tuple extends com.erlport.erlang.term.Tuple {
    /** A tuple with this number of values, all null. */
    public Tuple(Integer length) {
        super(length);
    }

    /** A tuple of these values, without a copy. */
    public static Tuple forElements(Object[] elements) {
        Tuple tuple = new Tuple(0);
        tuple.elements = elements;
        return tuple;
    }

    /** A pair. */
    public static Tuple two(Object first, Object second) {
        return forElements(new Object[] {first, second});
    }

    /** Three values. */
    public static Tuple three(Object first, Object second, Object third) {
        return forElements(new Object[] {first, second, third});
    }

    /** Four values. */
    public static Tuple four(Object first, Object second, Object third, Object fourth) {
        return forElements(new Object[] {first, second, third, fourth});
    }
}
