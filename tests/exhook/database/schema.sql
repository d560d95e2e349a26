-- What emqx_store.py and own_store.py read and write.

CREATE TABLE users (
    username text PRIMARY KEY,
    -- As passwords.py makes it.
    password text NOT NULL,
    superuser boolean NOT NULL DEFAULT false
);

-- The first rule of a user, by id, that covers what is asked decides; without one it is denied.
CREATE TABLE acl (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    username text NOT NULL,
    action text NOT NULL CHECK (action IN ('publish', 'subscribe')),
    topic text NOT NULL,
    allow boolean NOT NULL
);

-- The key lets a row be written again by somebody who does not know whether it was.
CREATE TABLE history (
    id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL,
    client text NOT NULL,
    username text NOT NULL,
    event text NOT NULL CHECK (event IN ('connected', 'disconnected')),
    reason text NOT NULL,
    PRIMARY KEY (client, at, event)
);

CREATE TABLE messages (
    id bigint GENERATED ALWAYS AS IDENTITY,
    at timestamptz NOT NULL,
    message text NOT NULL,
    client text NOT NULL,
    topic text NOT NULL,
    qos smallint NOT NULL,
    payload bytea NOT NULL,
    PRIMARY KEY (at, message)
);
