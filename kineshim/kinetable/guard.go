package kinetable

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// The guard is a trigger on kine's table, so that PostgreSQL itself refuses to let two write to it at once, whoever they are.
//
// The engine's session holds the engine lock, an exclusive advisory lock, for as long as it lives, and PostgreSQL lets go of it
// when the session ends, however it ends. A statement of somebody else passes if it gets that lock in shared mode, which it keeps
// to the end of its transaction: so an engine that takes over waits for those who are writing.
//
// A try for a lock fails also if somebody else waits for it. So the engine's own session must not try: it passes by a setting,
// which it makes when it has the lock. Its other sessions pass while the session lock lives, which the engine's session holds
// too and whose number they know. They are kept out as soon as it ends: what is left of an old engine cannot write beside a new
// one.
//
// An engine drops kine's indexes. A kine that has been running all the time makes them again only when it is restarted, and
// without the unique one it would not notice lost races. So until that index is there kine cannot insert.
//
// BUG(guard): a kine that is started while an engine serves makes its indexes again, and reads. The indexes make the engine's
// writes slower until the next takeover, which takes them for the sign that kine has shown row IDs as revisions.
const (
	// engineLock is the engine lock's key; its upper and lower 32 bits are what pg_locks shows. It says "kineshim".
	engineLock      int64 = engineLockClass<<32 | engineLockObject
	engineLockClass       = 0x6b696e65
	// engineLockObject is the lower half.
	engineLockObject = 0x7368696d
	// sessionLockClass and the session's number are the session lock's two keys.
	sessionLockClass = 0x6b73696d
	// sessionSetting tells the guard that a session belongs to the engine with that number.
	sessionSetting = "kineshim.session"
	// writerSetting is on in the session that holds the engine lock.
	writerSetting = "kineshim.writer"
	// guardName is the name of the trigger and of its function.
	guardName = "kineshim_guard"
	// guardEvents is what the trigger fires on, as in pg_trigger.tgtype: BEFORE INSERT, DELETE, UPDATE, TRUNCATE; per statement.
	guardEvents = 2 | 4 | 8 | 16 | 32
	// guardRefusal is the SQLSTATE object_in_use.
	guardRefusal = "55006"
)

// isEngineLock selects the engine lock of this database in pg_locks.
var isEngineLock = fmt.Sprintf("locktype = 'advisory' AND objsubid = 1 AND classid = %d AND objid = %d AND "+
	"database = (SELECT oid FROM pg_database WHERE datname = current_database())", engineLockClass, engineLockObject)

// guardSource is the function's body. It runs once for each statement that writes, so what usually decides comes first; the
// functions are qualified because the caller's search_path may be anything.
var guardSource = fmt.Sprintf(`
DECLARE
	own text;
	holder text;
BEGIN
	IF pg_catalog.current_setting('%[7]s', true) = 'on' THEN
		RETURN NULL;
	END IF;
	own := pg_catalog.current_setting('%[1]s', true);
	IF pg_catalog.pg_try_advisory_xact_lock_shared(%[2]d) THEN
		-- Nobody serves the table.
		IF TG_OP <> 'INSERT' OR own <> ''
			OR pg_catalog.to_regclass(pg_catalog.quote_ident(TG_TABLE_SCHEMA) || '.%[3]s') IS NOT NULL THEN
			RETURN NULL;
		END IF;
		RAISE EXCEPTION 'kineshim has served this table: kine must be restarted before it can write to it'
			USING ERRCODE = '%[4]s', DETAIL = 'The index %[3]s, by which kine notices lost races, is missing.',
			HINT = 'kine makes the index when it starts. Restart kine, or k3s if kine runs in it.';
	END IF;
	IF own <> '' AND NOT pg_catalog.pg_try_advisory_xact_lock_shared(%[5]d, own::integer) THEN
		RETURN NULL; -- The engine that this session belongs to lives.
	END IF;
	SELECT pg_catalog.format('pid %%s, application_name %%L', l.pid, a.application_name) INTO holder
		FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)
		WHERE %[6]s ORDER BY l.granted DESC, l.mode LIMIT 1;
	RAISE EXCEPTION 'kineshim serves this table: nobody else can write to it'
		USING ERRCODE = '%[4]s', DETAIL = 'Served by ' || coalesce(holder, 'an engine that has just ended') || '.',
		HINT = 'Use kineshim''s endpoint. To go back to kine, stop kineshim first, then start kine.';
END
`, sessionSetting, engineLock, kineUniqueIndex, guardRefusal, sessionLockClass, isEngineLock, writerSetting)

// guardStatements install or refresh the guard. ALWAYS: also for sessions that replicate.
func guardStatements(function, table string) []string {
	return []string{
		fmt.Sprintf("CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql AS %s", function, quote(guardSource)),
		fmt.Sprintf("DROP TRIGGER IF EXISTS %s ON %s", guardName, table),
		fmt.Sprintf("CREATE TRIGGER %s BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s()",
			guardName, table, function),
		fmt.Sprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER %s", table, guardName),
	}
}

// ownSession gives the sessions of one engine a number in common by which the guard knows them. It is called once for each
// Store, on the config from which those of all its connections are copied.
func ownSession(config *pgx.ConnConfig) {
	if config.RuntimeParams == nil {
		config.RuntimeParams = map[string]string{}
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "kineshim_engine"
	}
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	config.RuntimeParams[sessionSetting] = strconv.Itoa(int(binary.BigEndian.Uint32(b[:])>>2) + 1)
}
