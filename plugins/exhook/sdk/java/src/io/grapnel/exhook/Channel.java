package io.grapnel.exhook;

import java.io.BufferedInputStream;
import java.io.DataInputStream;
import java.io.EOFException;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.util.ArrayDeque;

/**
 * Frames on the socket between the broker and this worker. A separate thread reads ahead: this
 * prevents a deadlock when both sides write, and the end is noticed while a hook runs. {@link
 * #send} may be called from any thread. It handles frames, not their content, and must not call
 * user code.
 *
 * <p>The streams are plain ones on a file descriptor: a channel of {@code java.nio} would be closed
 * when a hook interrupts its thread.
 */
final class Channel {
    /** The broker has closed its end. */
    static final class Closed extends Exception {
        private static final long serialVersionUID = 1L;

        Closed(Throwable cause) {
            super(cause);
        }
    }

    private static final class Frame {
        final Object value;
        final int bytes;

        Frame(Object value, int bytes) {
            this.value = value;
            this.bytes = bytes;
        }
    }

    private static final int READ_BYTES = 256 * 1024;
    /** Most bytes that are read ahead of the worker. */
    private static final long AHEAD_BYTES_MAX = 64L << 20;
    /** No frame of the broker is as long, bytes. */
    private static final int FRAME_BYTES_MAX = 1 << 30;

    private final DataInputStream in;
    private final OutputStream out;
    private final Object lock = new Object();
    private final ArrayDeque<Frame> frames = new ArrayDeque<>();
    private long ahead;
    private boolean over;
    private Throwable broken;
    private volatile Runnable atEnd = () -> {};

    Channel(InputStream in, OutputStream out) {
        this.in = new DataInputStream(new BufferedInputStream(in, READ_BYTES));
        this.out = out;
    }

    /**
     * Begins to read. {@code atEnd} runs on the reading thread when the broker sends stop, or is
     * gone.
     */
    void open(Runnable atEnd) {
        this.atEnd = atEnd;
        Thread reader = new Thread(this::read, "grapnel-reader");
        reader.setDaemon(true);
        reader.start();
    }

    private void read() {
        try {
            while (true) {
                int length = Integer.reverseBytes(in.readInt());
                if (length < 0 || length > FRAME_BYTES_MAX) {
                    throw new IOException("a frame of " + Integer.toUnsignedString(length) + " bytes");
                }
                byte[] body = new byte[length];
                in.readFully(body);
                Object value = Wire.unpack(body);
                if (isStop(value)) {
                    atEnd.run();
                }
                put(new Frame(value, length));
            }
        } catch (EOFException end) {
            finish(null);
        } catch (OutOfMemoryError error) {
            System.err.println("the worker ends: a frame of the broker does not fit into memory: " + error);
            Runtime.getRuntime().halt(3);
        } catch (Throwable error) {
            finish(error);
        }
    }

    /** Whether a frame is the broker's stop. */
    static boolean isStop(Object frame) {
        return !Wire.list(frame).isEmpty() && Long.valueOf(2).equals(Wire.list(frame).get(0));
    }

    private void put(Frame frame) throws InterruptedException {
        synchronized (frames) {
            while (ahead > AHEAD_BYTES_MAX) {
                frames.wait();
            }
            ahead += frame.bytes;
            frames.add(frame);
            frames.notifyAll();
        }
    }

    private void finish(Throwable why) {
        atEnd.run();
        synchronized (frames) {
            over = true;
            broken = why;
            frames.notifyAll();
        }
    }

    /** Waits for the next frame. Throws {@link Closed} if none will come. */
    Object next() throws Closed {
        synchronized (frames) {
            while (frames.isEmpty()) {
                if (over) {
                    throw new Closed(broken);
                }
                try {
                    frames.wait();
                } catch (InterruptedException byUserCode) {
                    // A hook has interrupted its thread, which is the worker's. It is ignored.
                    continue;
                }
            }
            Frame frame = frames.remove();
            ahead -= frame.bytes;
            frames.notifyAll();
            return frame.value;
        }
    }

    /** Writes a frame. Waits while the broker does not read. Throws {@link Closed}. */
    void send(byte[] body) throws Closed {
        byte[] data = new byte[4 + body.length];
        int length = Integer.reverseBytes(body.length);
        for (int i = 0; i < 4; i++) {
            data[i] = (byte) (length >>> (24 - 8 * i));
        }
        System.arraycopy(body, 0, data, 4, body.length);
        synchronized (lock) {
            try {
                out.write(data);
            } catch (IOException error) {
                throw new Closed(error);
            }
        }
    }
}
