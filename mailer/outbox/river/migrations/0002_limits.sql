-- A mailbox is a digest of its name. Its row is locked by whoever takes a place.
CREATE TABLE mailboxes (mailbox bytea PRIMARY KEY);

-- The messages that hold a place in the window of a mailbox. That of a message under
-- way is renewed with each beat of its instance.
CREATE TABLE places (
	id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	mailbox  bytea NOT NULL,
	owner    text COLLATE "C" NOT NULL,
	per      interval NOT NULL,
	released boolean NOT NULL DEFAULT false,
	until    timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0.02);
CREATE INDEX places_until ON places (mailbox, until);
CREATE INDEX places_owner ON places (owner) WHERE NOT released;

-- The recipients of each minute.
CREATE TABLE recipients (
	mailbox bytea NOT NULL,
	minute  timestamptz NOT NULL,
	n       bigint NOT NULL,
	PRIMARY KEY (mailbox, minute)
);

-- How many connections an instance may have open, as long as its beat was seen a
-- moment ago, and who waits for one.
CREATE TABLE leases (
	mailbox bytea NOT NULL,
	owner   text COLLATE "C" NOT NULL,
	n       integer NOT NULL,
	PRIMARY KEY (mailbox, owner)
);
CREATE TABLE waiters (
	mailbox bytea NOT NULL,
	owner   text COLLATE "C" NOT NULL,
	since   timestamptz NOT NULL,
	seen    timestamptz NOT NULL,
	PRIMARY KEY (mailbox, owner)
);

-- take takes a place for one message, and a lease of a connection where one is
-- wanted: all of it or nothing. Wait is in seconds, and zero where it was taken; else
-- lacking says of what there is none. An instance that was not seen for the time dead
-- has no leases.
--
-- All times are the database's. What a crash of the database itself may forget here
-- are the places of the last second, so the flush is not waited for.
CREATE FUNCTION take(
	mb bytea, me text, rate integer, per interval, per_day integer, rcpts integer,
	connections integer, lease boolean, dead interval,
	OUT place bigint, OUT wait double precision, OUT lacking text
) LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
	t      timestamptz;
	held   bigint;
	taken  bigint;
	ahead  bigint;
	mine   timestamptz;
	first  record;
BEGIN
	PERFORM set_config('synchronous_commit', 'off', true);
	wait := 0;
	INSERT INTO mailboxes VALUES (mb) ON CONFLICT DO NOTHING;
	PERFORM 1 FROM mailboxes m WHERE m.mailbox = mb FOR UPDATE;
	t := clock_timestamp();

	IF rate > 0 THEN
		DELETE FROM places p WHERE p.mailbox = mb AND p.until <= t;
		SELECT count(*) INTO held FROM places p WHERE p.mailbox = mb;
		IF held >= rate THEN
			SELECT p.until, p.released INTO first FROM places p WHERE p.mailbox = mb ORDER BY p.until OFFSET held - rate LIMIT 1;
			wait := 0.05; -- a message has to end first
			IF first.released THEN
				wait := greatest(extract(epoch FROM first.until - t), 0.001);
			END IF;
			lacking := 'rate';
			RETURN;
		END IF;
	END IF;

	IF per_day > 0 AND rcpts <= per_day THEN
		-- A message is counted when it begins, and the server may do so when it ends.
		DELETE FROM recipients r WHERE r.mailbox = mb AND r.minute <= t - interval '24 hours 16 minutes';
		SELECT coalesce(sum(r.n), 0) INTO held FROM recipients r WHERE r.mailbox = mb;
		IF held + rcpts > per_day THEN
			SELECT extract(epoch FROM s.minute + interval '24 hours 16 minutes' - t) INTO wait FROM (
				SELECT r.minute, sum(r.n) OVER (ORDER BY r.minute) AS gone FROM recipients r WHERE r.mailbox = mb
			) s WHERE held - s.gone + rcpts <= per_day ORDER BY s.minute LIMIT 1;
			wait := greatest(wait, 0.001);
			lacking := 'recipients';
			RETURN;
		END IF;
	END IF;

	IF lease AND connections > 0 THEN
		DELETE FROM leases l WHERE l.mailbox = mb
			AND NOT EXISTS (SELECT 1 FROM instances i WHERE i.id = l.owner AND i.seen > t - dead);
		DELETE FROM waiters w WHERE w.mailbox = mb AND w.seen <= t - interval '3 seconds';
		SELECT coalesce(sum(l.n), 0) INTO taken FROM leases l WHERE l.mailbox = mb;
		INSERT INTO waiters VALUES (mb, me, t, t)
			ON CONFLICT (mailbox, owner) DO UPDATE SET seen = t RETURNING since INTO mine;
		SELECT count(*) INTO ahead FROM waiters w WHERE w.mailbox = mb AND (w.since, w.owner) < (mine, me);
		IF connections - taken <= ahead THEN
			wait := 0.1;
			lacking := 'connections';
			RETURN;
		END IF;
		DELETE FROM waiters w WHERE w.mailbox = mb AND w.owner = me;
		INSERT INTO leases AS l VALUES (mb, me, 1) ON CONFLICT (mailbox, owner) DO UPDATE SET n = l.n + 1;
	END IF;
	IF rate > 0 THEN
		INSERT INTO places (mailbox, owner, per, until) VALUES (mb, me, per, t + dead + per) RETURNING id INTO place;
	END IF;
	IF per_day > 0 THEN
		INSERT INTO recipients AS r VALUES (mb, date_trunc('minute', t), rcpts)
			ON CONFLICT (mailbox, minute) DO UPDATE SET n = r.n + rcpts;
	END IF;
END $$;
