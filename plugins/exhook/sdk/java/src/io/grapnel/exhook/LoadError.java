package io.grapnel.exhook;

/**
 * User code cannot be loaded. Thrown while a worker loads; the broker shows the text to the
 * operator.
 */
final class LoadError extends Exception {
    private static final long serialVersionUID = 1L;

    LoadError(String sentence) {
        super(sentence);
    }
}
