-- Each process that has the engine running. One whose beat stands still is dead.
CREATE TABLE instances (
	id   text COLLATE "C" PRIMARY KEY,
	beat bigint NOT NULL DEFAULT 0,
	seen timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- Since when, and when last, any instance was in contact with the database, without a
-- gap in between.
CREATE TABLE contact (
	one   boolean PRIMARY KEY DEFAULT true CHECK (one),
	since timestamptz NOT NULL DEFAULT clock_timestamp(),
	last  timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);
INSERT INTO contact DEFAULT VALUES;

-- The record is sealed. The other columns are what is looked for; none of them
-- tells an address.
CREATE TABLE messages (
	id          text COLLATE "C" PRIMARY KEY,
	tenant      text COLLATE "C" NOT NULL,
	caller      bytea NOT NULL,
	state       text COLLATE "C" NOT NULL,
	due         timestamptz,
	accepted    timestamptz NOT NULL,
	expires     timestamptz,
	forget      timestamptz,
	size        bigint NOT NULL DEFAULT 0,
	owner       text COLLATE "C",
	generation  bigint NOT NULL DEFAULT 1,
	job         bigint,
	idempotency bytea,
	record      bytea NOT NULL,
	CHECK ((state = 'sending') = (owner IS NOT NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 1);
ALTER TABLE messages ALTER COLUMN record SET STORAGE EXTERNAL;

CREATE UNIQUE INDEX messages_idempotency ON messages (idempotency) WHERE idempotency IS NOT NULL;
CREATE INDEX messages_due ON messages (tenant, due, id) WHERE state IN ('queued', 'scheduled');
CREATE INDEX messages_expires ON messages (tenant, expires) WHERE state IN ('queued', 'scheduled');
CREATE INDEX messages_sending ON messages (owner) WHERE state = 'sending';
CREATE INDEX messages_open ON messages (tenant, accepted) WHERE state IN ('queued', 'sending', 'held');
CREATE INDEX messages_forget ON messages (forget) WHERE state IN ('sent', 'failed', 'canceled');
CREATE INDEX messages_tenant ON messages (tenant, id);
CREATE INDEX messages_caller ON messages (caller, id);
CREATE INDEX messages_state ON messages (state, id) WHERE state NOT IN ('sent', 'sending');

-- Contents, sealed chunk by chunk.
CREATE TABLE contents (
	id   text COLLATE "C" NOT NULL,
	n    integer NOT NULL,
	data bytea NOT NULL,
	PRIMARY KEY (id, n)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
ALTER TABLE contents ALTER COLUMN data SET STORAGE EXTERNAL;

-- The lanes that are parked or paused.
CREATE TABLE lanes (
	tenant  text COLLATE "C" PRIMARY KEY,
	until   timestamptz,
	prober  text COLLATE "C",
	probing timestamptz,
	record  bytea NOT NULL
);

-- Messages by tenant and state. What changes is noted in tally, where nobody waits
-- for anybody, and added to counts now and then.
CREATE TABLE counts (
	tenant text COLLATE "C" NOT NULL,
	state  text COLLATE "C" NOT NULL,
	n      bigint NOT NULL,
	PRIMARY KEY (tenant, state)
);
CREATE TABLE tally (
	tenant text COLLATE "C" NOT NULL,
	state  text COLLATE "C" NOT NULL,
	n      bigint NOT NULL
);

CREATE FUNCTION tally_change() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
	IF TG_OP <> 'INSERT' THEN
		INSERT INTO tally VALUES (OLD.tenant, OLD.state, -1);
	END IF;
	IF TG_OP <> 'DELETE' THEN
		INSERT INTO tally VALUES (NEW.tenant, NEW.state, 1);
	END IF;
	RETURN NULL;
END $$;
CREATE TRIGGER tally_new AFTER INSERT OR DELETE ON messages
	FOR EACH ROW EXECUTE FUNCTION tally_change();
CREATE TRIGGER tally_state AFTER UPDATE ON messages
	FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION tally_change();
