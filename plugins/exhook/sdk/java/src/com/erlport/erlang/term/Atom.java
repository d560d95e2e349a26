package com.erlport.erlang.term;

/**
 * A name, as Erlang's drivers pass it: keys of records, {@code publish}, reason codes. Users' hooks read {@link
 * #value}; the class has the name and the members that hooks for EMQX 4.1 are compiled against.
 */
public class Atom {
    /** The name of the character set that the text came in; nothing here depends on it. */
    public String coder = "UTF-8";

    /** The text. */
    public String value;

    /** An atom of this text. */
    public Atom(String value) {
        this.value = value;
    }

    /** An atom of this text that came in another character set. */
    public Atom(String value, String coder) {
        this.value = value;
        this.coder = coder;
    }

    /** Whether the other is an atom of the same text. */
    @Override
    public boolean equals(Object other) {
        return other instanceof Atom && String.valueOf(value).equals(String.valueOf(((Atom) other).value));
    }

    @Override
    public int hashCode() {
        return String.valueOf(value).hashCode();
    }

    @Override
    public String toString() {
        return "Atom{value='" + value + "'}";
    }
}
