package io.grapnel.exhook;

/**
 * User code cannot be loaded; the text is a sentence for the operator. Thrown while a worker loads, shown by the
 * broker.
 */
final class LoadError extends Exception {
    private static final long serialVersionUID = 1L;

    LoadError(String sentence) {
        super(sentence);
    }
}
