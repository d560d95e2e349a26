package com.erlport.erlang.term;

import java.util.Arrays;

/**
 * A fixed number of values. Hooks get pairs in records, and answer with pairs. Hooks for EMQX 4.1
 * are compiled against this name and these members.
 */
public class Tuple {
    /** The values. */
    public Object[] elements;

    /** A tuple with this number of values, all null. */
    public Tuple(Integer length) {
        elements = new Object[length];
    }

    private Tuple(Object[] elements) {
        this.elements = elements;
    }

    /** A pair. */
    public static Tuple two(Object first, Object second) {
        return new Tuple(new Object[] {first, second});
    }

    /** Three values. */
    public static Tuple three(Object first, Object second, Object third) {
        return new Tuple(new Object[] {first, second, third});
    }

    /** Four values. */
    public static Tuple four(Object first, Object second, Object third, Object fourth) {
        return new Tuple(new Object[] {first, second, third, fourth});
    }

    /** Puts a value at a position, from 0. Throws {@link ArrayIndexOutOfBoundsException}. */
    public void set(Integer position, Object value) {
        elements[position] = value;
    }

    /** The value at a position, from 0. Throws {@link ArrayIndexOutOfBoundsException}. */
    public Object get(Integer position) {
        return elements[position];
    }

    /** The number of values. */
    public Integer length() {
        return elements.length;
    }

    /** Whether the other is a tuple of equal values. */
    @Override
    public boolean equals(Object other) {
        return other instanceof Tuple && Arrays.deepEquals(elements, ((Tuple) other).elements);
    }

    @Override
    public int hashCode() {
        return Arrays.deepHashCode(elements);
    }

    @Override
    public String toString() {
        return "Tuple{elements=" + Arrays.toString(elements) + "}";
    }
}
