package kinetable

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"kineshim/integration/pgtest"
)

func indexes(t testing.TB, conn *pgx.Conn) []string {
	t.Helper()
	return one[[]string](t, conn, `SELECT coalesce(array_agg(indexname::text ORDER BY indexname), '{}') FROM pg_indexes WHERE tablename = 'kine'`)
}

var ourIndexes = []string{"kine_pkey", compactIndex}

const columnsSQL = `SELECT array_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull, collname,
		pg_get_expr(adbin, adrelid)) ORDER BY attnum)
	FROM pg_attribute LEFT JOIN pg_collation c ON c.oid = attcollation LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
	WHERE attrelid = 'kine'::regclass AND attnum > 0 AND attname NOT LIKE 'ks\_%'`

func TestVirginDatabaseGetsWhatKineMakes(t *testing.T) {
	pg, database := testDatabase(t)
	k := take(t, pg, database)
	equal(t, "shape", k.shape, shape{utf8: true, sequence: `"public"."kine_id_seq"`, idMax: math.MaxInt64})
	if err := pg.CreateDatabase(database + "k"); err != nil {
		t.Fatal(err)
	}
	startKine(t, pg, database+"k").stop()
	kine := pg.Admin(t, database+"k")
	equal(t, "columns", one[[]string](t, k.conn, columnsSQL), one[[]string](t, kine, columnsSQL))
	equal(t, "rows", dump(t, k.conn), dump(t, kine)[:1])
	equal(t, "sequence", lastCalled(t, k.conn), 1)
	equal(t, "indexes", indexes(t, k.conn), ourIndexes)
	equal(t, "synchronous_commit", one[string](t, k.conn, "SHOW synchronous_commit"), "on")
	const isNull = "SELECT old_value IS NULL AND value IS NOT NULL AND num_nulls(ks_revision, ks_version, ks_create, ks_lease, ks_key) = 5 FROM kine"
	equal(t, "NULLs", one[bool](t, k.conn, isNull), true)
}

func oldTable(t testing.TB, conn *pgx.Conn, idType, columnType, nameType string) {
	t.Helper()
	run(t, conn, fmt.Sprintf(`CREATE TABLE kine (id %[1]s PRIMARY KEY, name %[3]s, created INTEGER, deleted INTEGER,
		create_revision %[2]s, prev_revision %[2]s, lease INTEGER, value bytea, old_value bytea)`, idType, columnType, nameType))
	for _, sql := range []string{
		`CREATE INDEX kine_name_index ON kine (name)`,
		`CREATE INDEX kine_name_id_index ON kine (name,id)`,
		`CREATE INDEX kine_id_deleted_index ON kine (id,deleted)`,
		`CREATE INDEX kine_prev_revision_index ON kine (prev_revision)`,
		`CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)`,
	} {
		run(t, conn, sql)
	}
}

func fillOld(t testing.TB, conn *pgx.Conn) {
	t.Helper()
	run(t, conn, `INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value, old_value) VALUES
		('compact_rev_key', 1, 0, 0, 0, 0, '', NULL), ('/registry/health', 1, 0, 0, 0, 0, '{"health":"true"}', NULL),
		('/a', 1, 0, 0, 0, 0, 'one', NULL), ('/b', 1, 0, 0, 0, 0, 'bee', NULL), ('/a', 0, 0, 3, 3, 0, 'two', 'one'),
		('gap-6', 0, 1, 0, 0, 0, NULL, NULL), ('/b', 0, 1, 0, 4, 0, NULL, 'bee'), ('gap-8', 0, 1, 0, 0, 0, NULL, NULL),
		('/b', 1, 0, 0, 7, 0, 'again', NULL), ('/Zé', 1, 0, 0, 0, 0, 'x', NULL)`)
}

func collated(t testing.TB, options string) (*pgtest.Server, string) {
	t.Helper()
	pg, database := testDatabase(t)
	if options != "" {
		database += "_collated"
		run(t, pg.Admin(t, "postgres"), "CREATE DATABASE "+database+" OWNER "+pgtest.Role+" TEMPLATE template0 "+options)
	}
	return pg, database
}

func TestOldTablesAreAdopted(t *testing.T) {
	for _, c := range []struct {
		name, id, column, key string
		want                  shape
		options               string
	}{
		{"integers", "SERIAL", "INTEGER", "VARCHAR(630)", shape{630, true, `"public"."kine_id_seq"`, math.MaxInt32}, ""},
		{"integers, C", "SERIAL", "INTEGER", `text COLLATE "C"`, shape{0, true, `"public"."kine_id_seq"`, math.MaxInt32}, ""},
		{"of today", "BIGSERIAL", "BIGINT", `text COLLATE "C"`, shape{0, true, `"public"."kine_id_seq"`, math.MaxInt64}, ""},
		{"other collation", "BIGSERIAL", "BIGINT", `text COLLATE "ucs_basic"`, shape{0, true, `"public"."kine_id_seq"`, math.MaxInt64}, ""},
		{"ICU collation", "BIGSERIAL", "BIGINT", `VARCHAR(630) COLLATE "en-US-x-icu"`, shape{630, true, `"public"."kine_id_seq"`, math.MaxInt64}, ""},
		{"en_US", "SERIAL", "INTEGER", "VARCHAR(630)", shape{630, true, `"public"."kine_id_seq"`, math.MaxInt32},
			"LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LOCALE 'C.UTF-8'"},
		{"C.UTF-8", "SERIAL", "INTEGER", "VARCHAR(630)", shape{630, true, `"public"."kine_id_seq"`, math.MaxInt32}, "LOCALE 'C.UTF-8'"},
		{"identity", "bigint GENERATED ALWAYS AS IDENTITY", "BIGINT", "text", shape{0, true, `"public"."kine_id_seq"`, math.MaxInt64}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			pg, database := collated(t, c.options)
			owner := plainSession(t, pg, database)
			oldTable(t, owner, c.id, c.column, c.key)
			fillOld(t, owner)
			before, columns := dump(t, owner), one[[]string](t, owner, columnsSQL)
			k := take(t, pg, database)
			equal(t, "shape", k.shape, c.want)
			equal(t, "rows", dump(t, k.conn), before)
			equal(t, "columns", one[[]string](t, k.conn, columnsSQL), columns)
			equal(t, "indexes", indexes(t, k.conn), ourIndexes)
			equal(t, "sequence", lastCalled(t, k.conn), 10)
			equal(t, "warnings", len(k.log.lines(fmt.Sprintf("WARN others are connected to the database sessions=pid %d", owner.PgConn().PID()))), 1)
			k.end(t, pg.Admin(t, database))
			owner.Close(soon(t))
			kine := startKine(t, pg, database)
			equal(t, "revision of the next create", kine.create(t, "/c", "sea"), 11)
			equal(t, "keys", kine.list(t, "/"), map[string]string{"/registry/health": `{"health":"true"} 2 2`, "/a": "two 3 5",
				"/b": "again 9 9", "/Zé": "x 10 10", "/c": "sea 11 11"})
			kine.stop()
			equal(t, "shape", take(t, pg, database).shape, c.want)
		})
	}
}

func TestSeveralCompactRowsBecomeTheGreatest(t *testing.T) {
	for _, c := range []struct {
		revisions []int64
		unique    bool
	}{{[]int64{5, 2}, true}, {[]int64{2, 5}, true}, {[]int64{3, 5, 0}, true}, {[]int64{0, 0}, false}} {
		t.Run(fmt.Sprint(c.revisions), func(t *testing.T) {
			pg, database := testDatabase(t)
			owner := plainSession(t, pg, database)
			oldTable(t, owner, "BIGSERIAL", "BIGINT", "text")
			if !c.unique {
				run(t, owner, "DROP INDEX kine_name_prev_revision_uindex")
			}
			fillOld(t, owner)
			run(t, owner, "DELETE FROM kine WHERE id = 1")
			for _, r := range c.revisions {
				run(t, owner, `INSERT INTO kine (name, created, deleted, create_revision, prev_revision, lease, value) VALUES
					('compact_rev_key', 0, 0, 0, $1, 0, '')`, r)
			}
			last := int64(10 + len(c.revisions))
			k := take(t, pg, database)
			equal(t, "compact_rev_key", one[[]int64](t, k.conn, "SELECT array_agg(id) || array_agg(prev_revision) FROM kine WHERE name = 'compact_rev_key'"),
				[]int64{last, slices.Max(c.revisions)})
			equal(t, "sequence", lastCalled(t, k.conn), last)
		})
	}
}

func TestMissingCompactRowIsWrittenAsKineDoes(t *testing.T) {
	for name, c := range map[string]struct {
		prepare string
		id      int64
	}{
		"of many rows":     {"DELETE FROM kine WHERE name = 'compact_rev_key'", 11},
		"ids burnt":        {"DELETE FROM kine WHERE name = 'compact_rev_key'; SELECT setval('kine_id_seq', 50)", 11},
		"emptied":          {"DELETE FROM kine", 11},
		"emptied, started": {"TRUNCATE kine RESTART IDENTITY", 1},
	} {
		t.Run(name, func(t *testing.T) {
			pg, database := testDatabase(t)
			owner := plainSession(t, pg, database)
			oldTable(t, owner, "BIGSERIAL", "BIGINT", "text")
			fillOld(t, owner)
			run(t, owner, c.prepare)
			k := take(t, pg, database)
			rows := dump(t, k.conn)
			equal(t, "the last row", rows[len(rows)-1], fmt.Sprintf("%d|compact_rev_key|1|0|0|0|0||NULL", c.id))
			if got := lastCalled(t, k.conn); got < c.id {
				t.Errorf("the sequence is at %d, row %d exists", got, c.id)
			}
		})
	}
}

func TestSequenceIsMended(t *testing.T) {
	for name, c := range map[string]struct {
		prepare  string
		sequence string
		last     int64
	}{
		"behind":           {"SELECT setval('kine_id_seq', 4)", `"public"."kine_id_seq"`, 10},
		"never called":     {"ALTER SEQUENCE kine_id_seq RESTART", `"public"."kine_id_seq"`, 10},
		"ahead":            {"SELECT setval('kine_id_seq', 40)", `"public"."kine_id_seq"`, 40},
		"integer":          {"ALTER SEQUENCE kine_id_seq AS integer", `"public"."kine_id_seq"`, 10},
		"no default":       {"ALTER TABLE kine ALTER id DROP DEFAULT", `"public"."kine_id_seq"`, 10},
		"no sequence":      {"DROP SEQUENCE kine_id_seq CASCADE", `"public"."kine_id_seq"`, 10},
		"another name":     {`ALTER SEQUENCE kine_id_seq RENAME TO "it's"`, `"public"."it's"`, 10},
		"not owned":        {"ALTER SEQUENCE kine_id_seq OWNED BY NONE", `"public"."kine_id_seq"`, 10},
		"no primary key":   {"ALTER TABLE kine DROP CONSTRAINT kine_pkey", `"public"."kine_id_seq"`, 10},
		"in other schemas": {"CREATE SCHEMA s; ALTER SEQUENCE kine_id_seq OWNED BY NONE; ALTER SEQUENCE kine_id_seq SET SCHEMA s", `"s"."kine_id_seq"`, 10},
	} {
		t.Run(name, func(t *testing.T) {
			pg, database := testDatabase(t)
			owner := plainSession(t, pg, database)
			oldTable(t, owner, "BIGSERIAL", "BIGINT", "text")
			fillOld(t, owner)
			run(t, owner, c.prepare)
			k := take(t, pg, database)
			equal(t, "shape", k.shape, shape{utf8: true, sequence: c.sequence, idMax: math.MaxInt64})
			equal(t, "sequence", one[int64](t, k.conn, "SELECT last_value FROM "+c.sequence), c.last)
			equal(t, "id", one[int64](t, k.conn, "INSERT INTO kine (name, prev_revision) VALUES ('/new', 0) RETURNING id"), c.last+1)
			equal(t, "indexes", indexes(t, k.conn), ourIndexes)
		})
	}
}

func TestIndexesThatAreHalfThereAreDropped(t *testing.T) {
	pg, database := testDatabase(t)
	owner := plainSession(t, pg, database)
	oldTable(t, owner, "BIGSERIAL", "BIGINT", "text")
	fillOld(t, owner)
	run(t, owner, "DROP INDEX kine_name_index, kine_prev_revision_index, kine_name_prev_revision_uindex")
	run(t, owner, "INSERT INTO kine (name, prev_revision) VALUES ('twice', 1), ('twice', 1)")
	if _, err := owner.Exec(soon(t), "CREATE UNIQUE INDEX CONCURRENTLY kine_name_prev_revision_uindex ON kine (name, prev_revision)"); err == nil {
		t.Fatal("the index should not have been built")
	}
	run(t, owner, "CREATE INDEX operators_own ON kine (lease)")
	k := take(t, pg, database)
	equal(t, "indexes", indexes(t, k.conn), []string{"kine_pkey", compactIndex, "operators_own"})
	run(t, k.conn, "SET enable_seqscan = off") // the table is tiny
	if plan := one[string](t, k.conn, "EXPLAIN SELECT id FROM kine WHERE name = 'compact_rev_key'"); !strings.Contains(plan, compactIndex) {
		t.Errorf("compact_rev_key is looked up by %s", plan)
	}
}

func TestTableOfAnotherRoleSaysWhatToRun(t *testing.T) {
	pg, database := testDatabase(t)
	take(t, pg, database).end(t, pg.Admin(t, database))
	super := pg.Admin(t, database)
	for _, sql := range []string{"ALTER TABLE kine OWNER TO super", "ALTER TABLE kineshim_state OWNER TO super",
		"ALTER FUNCTION kineshim_guard OWNER TO super", "ALTER SEQUENCE kine_id_seq OWNED BY NONE", "ALTER SEQUENCE kine_id_seq OWNER TO super"} {
		run(t, super, sql)
	}
	_, err := tryTake(soon(t), t, pg, database)
	if err == nil {
		t.Fatal("took over what belongs to another role")
	}
	_, commands, ok := strings.Cut(err.Error(), "superuser: ")
	if !ok {
		t.Fatalf("no commands: %v", err)
	}
	run(t, super, commands)
	take(t, pg, database)
}

func TestSchemaWithoutPrivilegeSaysWhatToRun(t *testing.T) {
	pg, database := testDatabase(t)
	super := pg.Admin(t, database)
	run(t, super, "ALTER SCHEMA public OWNER TO super")
	_, err := tryTake(soon(t), t, pg, database)
	if err == nil {
		t.Fatal("no error")
	}
	_, commands, ok := strings.Cut(err.Error(), "superuser: ")
	if !ok {
		t.Fatalf("no commands: %v", err)
	}
	run(t, super, commands)
	take(t, pg, database)
}

func TestWhatIsNotKinesTableIsRefused(t *testing.T) {
	const table = "CREATE TABLE kine (id bigserial PRIMARY KEY, name text, created int, deleted int, create_revision bigint, prev_revision bigint, lease int, value bytea, old_value bytea); "
	for sql, words := range map[string]string{
		"CREATE VIEW kine AS SELECT 1":                                              "no ordinary table",
		"CREATE TABLE kine (id bigint) PARTITION BY RANGE (id)":                     "no ordinary table",
		table + "ALTER TABLE kine DROP COLUMN lease":                                "no column lease",
		table + "ALTER TABLE kine ALTER value TYPE text":                            "column value",
		table + "ALTER TABLE kine SET UNLOGGED":                                     "SET LOGGED",
		table + "ALTER TABLE kine ADD ks_key text":                                  "column ks_key",
		table + "ALTER TABLE kine ALTER id TYPE numeric":                            "column id",
		"CREATE SCHEMA a; ALTER ROLE kine IN DATABASE %s SET search_path = nowhere": "search_path",
	} {
		pg, database := testDatabase(t)
		run(t, pg.Admin(t, database), strings.ReplaceAll("SET ROLE kine; "+sql, "%s", database))
		if _, err := tryTake(soon(t), t, pg, database); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", sql, err)
		}
	}
}

func TestAnotherSchemaOfTheSearchPathIsAdopted(t *testing.T) {
	pg, database := testDatabase(t)
	owner := plainSession(t, pg, database)
	run(t, owner, `CREATE SCHEMA "the kine's"; ALTER DATABASE `+database+` SET search_path = "the kine's", public`)
	owner = plainSession(t, pg, database)
	oldTable(t, owner, "BIGSERIAL", "BIGINT", "text")
	fillOld(t, owner)
	k := take(t, pg, database)
	equal(t, "sequence", k.shape.sequence, `"the kine's"."kine_id_seq"`)
	equal(t, "side tables", one[int64](t, k.conn, `SELECT count(*) FROM pg_tables WHERE schemaname = 'the kine''s'`), 3)
	k.end(t, pg.Admin(t, database))
	equal(t, "next", lastCalled(t, owner), 10)
	run(t, owner, "CREATE UNIQUE INDEX kine_name_prev_revision_uindex ON kine (name, prev_revision)")
	run(t, owner, everyWay["insert"])
}

func TestSmallIDsAreWarnedOf(t *testing.T) {
	pg, database := testDatabase(t)
	owner := plainSession(t, pg, database)
	oldTable(t, owner, "SERIAL", "INTEGER", "VARCHAR(630)")
	run(t, owner, "INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value) VALUES (1800000000, '/a', 1, 0, 0, 0, 0, '')")
	k := take(t, pg, database)
	equal(t, "warnings", len(k.log.lines("WARN the table's IDs run out last=1800000001 greatest=2147483647")), 1)
}

func TestAutovacuumIsTunedAndTheOperatorsSettingsStay(t *testing.T) {
	pg, database := testDatabase(t)
	owner := plainSession(t, pg, database)
	oldTable(t, owner, "BIGSERIAL", "BIGINT", "text")
	run(t, owner, "ALTER TABLE kine SET (autovacuum_vacuum_threshold = 77, fillfactor = 90, toast.autovacuum_vacuum_cost_delay = 5)")
	k := take(t, pg, database)
	const options = "SELECT reloptions FROM pg_class WHERE oid = (SELECT %s FROM pg_class WHERE oid = 'kine'::regclass)"
	got := one[[]string](t, k.conn, fmt.Sprintf(options, "oid"))
	for _, want := range []string{"autovacuum_vacuum_threshold=77", "fillfactor=90", "autovacuum_vacuum_scale_factor=0", "vacuum_truncate=off"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %s in %q", want, got)
		}
	}
	got = one[[]string](t, k.conn, fmt.Sprintf(options, "reltoastrelid"))
	for _, want := range []string{"autovacuum_vacuum_threshold=5000", "autovacuum_vacuum_cost_delay=5", "vacuum_truncate=off"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %s in TOAST's %q", want, got)
		}
	}
}
