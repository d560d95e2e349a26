package com.erlport.erlang.term;

/**
 * A name in Erlang: keys of records, {@code publish}, reason codes. Users' hooks read {@link
 * #value}. Hooks for EMQX 4.1 are compiled against this name and these members.
 */
public class Atom {
    /** The name of the text's original character set; it is not used. */
    public String coder = "UTF-8";

    /** The text. */
    public String value;

    /** An atom of this text. */
    public Atom(String value) {
        this.value = value;
    }

    /** An atom of this text, with the name of its original character set. */
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
