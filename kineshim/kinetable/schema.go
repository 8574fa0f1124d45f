package kinetable

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Names of ours in the schema of kine's table.
const (
	stateTable   = "kineshim_state"
	leaseTable   = "kineshim_lease"
	compactIndex = "kineshim_compact_index"
)

// kineUniqueIndex is what makes kine notice lost races.
const kineUniqueIndex = "kine_name_prev_revision_uindex"

// kineIndexes are those that only kine's SQL needs. It makes the missing ones when it starts.
var kineIndexes = []string{
	"kine_name_index", "kine_name_id_index", "kine_id_deleted_index", "kine_prev_revision_index", kineUniqueIndex,
	"kine_list_query_index",
}

// shape is what differs between the kine tables in the field.
type shape struct {
	maxNameBytes int    // characters that the name column holds; 0: no limit but the btree's
	utf8         bool   // the database's encoding; if not, only ASCII is safe in name
	sequence     string // the id's sequence for setval, schema-qualified and quoted
	idMax        int64  // the greatest ID that all columns that hold IDs can take
}

// createKine is kine's own statement, of its pkg/drivers/pgsql; %s is the table's name.
const createKine = `CREATE TABLE %s (id BIGSERIAL PRIMARY KEY, name text COLLATE "C", created INTEGER, deleted INTEGER,
	create_revision BIGINT, prev_revision BIGINT, lease INTEGER, value bytea, old_value bytea)`

// addedColumns are added to kine's table, all nullable, so that kine's statements stay as they are.
var addedColumns = []attribute{
	{Name: "ks_revision", Type: "int8"}, {Name: "ks_version", Type: "int8"}, {Name: "ks_create", Type: "int8"},
	{Name: "ks_lease", Type: "int8"}, {Name: "ks_key", Type: "bytea"}, {Name: "ks_attempt", Type: "int8"},
}

// storage makes autovacuum keep up with steady churn, whatever the table's size: its default is a share of the rows, which
// is a gigabyte of garbage in a large table. Truncation is off because its exclusive lock would stall commits; the space is used
// again. Rows of up to 4 kB stay in one piece: an update holds two values, which PostgreSQL would else move out, at twice
// the cost of the write. What an operator has set is left as it is.
var storage = []struct{ name, value string }{
	{"autovacuum_vacuum_scale_factor", "0"},
	{"autovacuum_vacuum_threshold", "5000"},
	{"autovacuum_vacuum_insert_scale_factor", "0"},
	{"autovacuum_vacuum_insert_threshold", "50000"},
	{"autovacuum_analyze_scale_factor", "0"},
	{"autovacuum_analyze_threshold", "100000"},
	{"autovacuum_vacuum_cost_delay", "1"},
	{"vacuum_truncate", "off"},
	{"toast_tuple_target", "4080"},
}

// onToast says whether the setting exists for the table that holds the large values too: PostgreSQL never analyzes that.
func onToast(setting string) bool {
	return !strings.Contains(setting, "analyze") && setting != "toast_tuple_target"
}

// survey is what the catalog says. See surveySQL.
type survey struct {
	Locked, InRecovery          bool
	Session                     int // of ownSession
	SynchronousCommit, Encoding string
	Role, Schema                string // Schema is where kine finds its table, or would make it
	MayCreate                   bool
	Table                       *table
	Guard                       *string // the source of the guard's function
	State, Lease, Sequenced     bool    // whether the side tables and a sequence of kine's name exist
	Lineage, Access             bool    // whether the state has these columns
	Strangers                   []object
	Writers, Others             []backend
}

// table is kine's table in the catalog.
type table struct {
	Kind, Persistence     string
	Columns               []attribute
	Identity              string // of id: "", "d" (by default) or "a" (always)
	Primary, CompactIndex bool
	Kine                  []string // kine's own indexes that are there
	Guarded               bool     // the trigger is there, as it should be
	Options, ToastOptions []string
	Toast                 bool
	Sequence              *sequence
}

type attribute struct {
	Name, Type string
	Modifier   int // PostgreSQL's atttypmod: -1, or for varchar the length + 4
}

type sequence struct {
	Schema, Name, Type string
	Max                int64
	Last               *int64 // nil: never called
}

// object is one that our role does not own although it must.
type object struct{ Kind, Name, Owner string }

// isWriter selects the locks on a table, in pg_locks, of those who write to it or want to keep others from writing.
// Autovacuum's usual one is not among them.
const isWriter = "mode NOT IN ('AccessShareLock', 'RowShareLock', 'ShareUpdateExclusiveLock')"

// backend is another session.
type backend struct {
	PID         int // 0: a prepared transaction
	Application string
	User, State string
	Mode        string // of the lock in question
	Transaction string // virtual transaction ID
}

func (b backend) String() string {
	if b.PID == 0 {
		return "a prepared transaction"
	}
	if b.State == "" { // PostgreSQL shows it only to its own role
		b.State = "state hidden"
	}
	return fmt.Sprintf("pid %d (application_name %q, user %q, %s)", b.PID, b.Application, b.User, b.State)
}

// surveySQL returns one row with a survey as JSON. It reads only the catalog, so that it works whatever is there. Of another
// role's sessions PostgreSQL hides what kind they are; autovacuum's have no user.
var surveySQL = fmt.Sprintf(`
WITH place AS MATERIALIZED (
	SELECT c.oid AS rel, coalesce(c.relnamespace, (SELECT oid FROM pg_namespace WHERE nspname = current_schema())) AS nsp,
		c.relkind, c.relpersistence, c.relowner, c.reloptions, c.reltoastrelid,
		(SELECT attnum FROM pg_attribute WHERE attrelid = c.oid AND attname = 'id' AND NOT attisdropped) AS id
	FROM (SELECT to_regclass('kine') AS found) f LEFT JOIN pg_class c ON c.oid = f.found
), ours AS MATERIALIZED (
	SELECT c.oid, c.relname, c.relkind, c.relowner FROM pg_class c, place
	WHERE c.relnamespace = place.nsp AND c.relname IN ('%[1]s', '%[2]s', 'kine_id_seq')
), serial AS MATERIALIZED (
	SELECT d.refobjid AS oid FROM place JOIN pg_attrdef a ON a.adrelid = place.rel AND a.adnum = place.id
		JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid AND d.refclassid = 'pg_class'::regclass
		JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
	UNION ALL
	SELECT d.objid FROM place JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = place.rel
		AND d.refobjsubid = place.id AND d.classid = 'pg_class'::regclass AND d.deptype = 'i'
		JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
	LIMIT 1
), guard AS MATERIALIZED (
	SELECT p.oid, p.prosrc, p.proowner FROM pg_proc p, place
	WHERE p.proname = '%[3]s' AND p.pronamespace = place.nsp AND p.pronargs = 0
), owned AS (
	SELECT 'TABLE' AS kind, rel::regclass::text AS name, relowner AS owner FROM place WHERE rel IS NOT NULL
	UNION ALL SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, oid::regclass::text, relowner FROM ours
	UNION ALL SELECT 'SEQUENCE', oid::regclass::text, relowner FROM pg_class WHERE oid IN (SELECT oid FROM serial)
	UNION ALL SELECT 'FUNCTION', oid::regprocedure::text, proowner FROM guard
)
SELECT json_build_object(
	'inrecovery', pg_is_in_recovery(),
	'session', coalesce(nullif(current_setting('%[4]s', true), '')::int, 0),
	'locked', EXISTS (SELECT FROM pg_locks WHERE pid = pg_backend_pid() AND %[5]s AND mode = 'ExclusiveLock' AND granted),
	'synchronouscommit', current_setting('synchronous_commit'),
	'encoding', getdatabaseencoding(),
	'role', current_user,
	'schema', coalesce((SELECT nspname FROM pg_namespace WHERE oid = place.nsp), ''),
	'maycreate', coalesce(has_schema_privilege(place.nsp, 'CREATE'), false),
	'guard', (SELECT prosrc FROM guard),
	'state', EXISTS (SELECT FROM ours WHERE relname = '%[1]s'),
	'lineage', EXISTS (SELECT FROM ours JOIN pg_attribute a ON a.attrelid = ours.oid WHERE relname = '%[1]s' AND attname = 'lineage'
		AND NOT attisdropped),
	'access', EXISTS (SELECT FROM ours JOIN pg_attribute a ON a.attrelid = ours.oid WHERE relname = '%[1]s' AND attname = 'access'
		AND NOT attisdropped),
	'lease', EXISTS (SELECT FROM ours WHERE relname = '%[2]s'),
	'sequenced', EXISTS (SELECT FROM ours WHERE relname = 'kine_id_seq'),
	'strangers', (SELECT json_agg(DISTINCT jsonb_build_object('kind', kind, 'name', name, 'owner', pg_get_userbyid(owner)))
		FROM owned WHERE NOT pg_has_role(owner, 'USAGE')),
	'writers', (SELECT json_agg(json_build_object('pid', coalesce(l.pid, 0), 'application', coalesce(a.application_name, ''),
			'user', coalesce(a.usename, ''), 'state', coalesce(a.state, ''), 'mode', l.mode, 'transaction', l.virtualtransaction))
		FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid)
		WHERE l.locktype = 'relation' AND l.relation = place.rel AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
			AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND %[9]s AND (a.usesysid IS NOT NULL OR l.pid IS NULL)),
	'others', (SELECT json_agg(json_build_object('pid', pid, 'application', application_name, 'user', coalesce(usename, ''),
			'state', coalesce(state, '')))
		FROM pg_stat_activity WHERE datname = current_database() AND coalesce(backend_type, 'client backend') = 'client backend'
			AND usesysid IS NOT NULL AND pid <> pg_backend_pid() AND application_name NOT LIKE 'kineshim%%'),
	'table', CASE WHEN place.rel IS NOT NULL THEN json_build_object(
		'kind', place.relkind, 'persistence', place.relpersistence, 'toast', place.reltoastrelid <> 0,
		'options', place.reloptions,
		'toastoptions', (SELECT reloptions FROM pg_class WHERE oid = place.reltoastrelid),
		'identity', (SELECT attidentity FROM pg_attribute WHERE attrelid = place.rel AND attnum = place.id),
		'columns', (SELECT json_agg(json_build_object('name', attname, 'type', t.typname, 'modifier', atttypmod))
			FROM pg_attribute JOIN pg_type t ON t.oid = atttypid WHERE attrelid = place.rel AND attnum > 0 AND NOT attisdropped),
		'primary', EXISTS (SELECT FROM pg_index WHERE indrelid = place.rel AND indisunique AND indisvalid AND indpred IS NULL
			AND indnkeyatts = 1 AND indkey[0] = place.id),
		'compactindex', EXISTS (SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
			WHERE i.indrelid = place.rel AND c.relname = '%[6]s' AND i.indisvalid),
		'kine', (SELECT json_agg(c.relname) FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
			WHERE i.indrelid = place.rel AND c.relname IN ('%[7]s')
				AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.indexrelid)),
		'guarded', EXISTS (SELECT FROM pg_trigger JOIN guard ON guard.oid = tgfoid
			WHERE tgrelid = place.rel AND tgname = '%[3]s' AND tgtype = %[8]d AND tgenabled = 'A'),
		'sequence', (SELECT json_build_object('schema', n.nspname, 'name', c.relname, 'type', t.typname, 'max', q.seqmax,
				'last', CASE WHEN has_sequence_privilege(c.oid, 'SELECT, USAGE') THEN pg_sequence_last_value(c.oid) END)
			FROM serial JOIN pg_class c ON c.oid = serial.oid JOIN pg_namespace n ON n.oid = c.relnamespace
			JOIN pg_sequence q ON q.seqrelid = c.oid JOIN pg_type t ON t.oid = q.seqtypid)
	) END)
FROM place`,
	stateTable, leaseTable, guardName, sessionSetting, isEngineLock, compactIndex, strings.Join(kineIndexes, "', '"),
	guardEvents, isWriter)

// qualified is the quoted name of something in the table's schema.
func (s *survey) qualified(name string) string { return pgx.Identifier{s.Schema, name}.Sanitize() }

// attribute is the zero one if there is no such column.
func (t *table) attribute(name string) attribute {
	if i := slices.IndexFunc(t.Columns, func(c attribute) bool { return c.Name == name }); i >= 0 {
		return t.Columns[i]
	}
	return attribute{}
}

func (t *table) has(column string) bool { return t.attribute(column).Name != "" }

// check says why the database cannot be served, in words that say what to do.
func (s *survey) check() error {
	switch {
	case s.InRecovery:
		return errors.New("this PostgreSQL is a standby")
	case s.Session == 0:
		return errors.New("the connection does not name its engine's session")
	case s.SynchronousCommit != "on":
		return fmt.Errorf("synchronous_commit is %q in spite of being set to on", s.SynchronousCommit)
	case s.Schema == "":
		return fmt.Errorf("no schema of role %q's search_path exists, so there is no place for kine's table", s.Role)
	case len(s.Strangers) > 0:
		role := pgx.Identifier{s.Role}.Sanitize()
		var owners, commands []string
		for _, o := range s.Strangers {
			owners = append(owners, fmt.Sprintf("%s belongs to role %q", o.Name, o.Owner))
			commands = append(commands, fmt.Sprintf("ALTER %s %s OWNER TO %s;", o.Kind, o.Name, role))
		}
		return fmt.Errorf("%s, and role %q must own it; run as a superuser: %s", strings.Join(owners, ", "), s.Role,
			strings.Join(commands, " "))
	case !s.MayCreate && len(s.pending()) > 0:
		return fmt.Errorf("role %q may not create anything in schema %q; run as a superuser: GRANT CREATE ON SCHEMA %s TO %s;",
			s.Role, s.Schema, pgx.Identifier{s.Schema}.Sanitize(), pgx.Identifier{s.Role}.Sanitize())
	case s.Table != nil:
		return s.checkTable()
	}
	return nil
}

// kineTypes are the types that kine's columns have had.
var kineTypes = map[string][]string{
	"id": {"int4", "int8"}, "name": {"text", "varchar"}, "created": {"int4", "int8"}, "deleted": {"int4", "int8"},
	"create_revision": {"int4", "int8"}, "prev_revision": {"int4", "int8"}, "lease": {"int4", "int8"}, "value": {"bytea"},
	"old_value": {"bytea"},
}

func (s *survey) checkTable() error {
	t, name := s.Table, s.qualified("kine")
	if t.Kind != "r" {
		return fmt.Errorf("%s is no ordinary table", name)
	}
	if t.Persistence != "p" {
		return fmt.Errorf("%s is not logged, so no standby has it; run: ALTER TABLE %s SET LOGGED;", name, name)
	}
	wanted := map[string][]string{}
	for n, types := range kineTypes {
		if !t.has(n) {
			return fmt.Errorf("%s has no column %s: it is not kine's", name, n)
		}
		wanted[n] = types
	}
	for _, c := range addedColumns {
		wanted[c.Name] = []string{c.Type}
	}
	for _, c := range t.Columns {
		if types, ok := wanted[c.Name]; ok && !slices.Contains(types, c.Type) {
			return fmt.Errorf("column %s of %s has the type %s, not %s", c.Name, name, c.Type, strings.Join(types, " or "))
		}
	}
	return nil
}

// pending returns the statements that make the table ours, none if it is. They are for one transaction, and each can find
// its work done. Only the one that makes kine's table relies on the survey.
func (s *survey) pending() []string {
	var todo []string
	name := s.qualified("kine")
	t := s.Table
	if t == nil {
		todo = append(todo, fmt.Sprintf(createKine, name))
		t = &table{Primary: true, Sequence: &sequence{Type: "int8", Max: math.MaxInt64}, Toast: true}
	}
	todo = append(todo, s.repairs(t)...)
	for _, c := range addedColumns {
		if !t.has(c.Name) {
			todo = append(todo, fmt.Sprintf("ALTER TABLE %s ADD COLUMN IF NOT EXISTS %s %s", name, c.Name, c.Type))
		}
	}
	if !s.State {
		todo = append(todo, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (one boolean PRIMARY KEY DEFAULT true CHECK (one), "+
			"lease_clock_ms bigint NOT NULL DEFAULT 0, identity_upto bigint NOT NULL DEFAULT 0)", s.qualified(stateTable)))
	}
	if !s.Lineage {
		todo = append(todo, fmt.Sprintf("ALTER TABLE %s ADD COLUMN IF NOT EXISTS lineage bigint NOT NULL DEFAULT 0", s.qualified(stateTable)))
	}
	if !s.Access {
		todo = append(todo, fmt.Sprintf("ALTER TABLE %s ADD COLUMN IF NOT EXISTS access bytea", s.qualified(stateTable)))
	}
	if !s.Lease {
		todo = append(todo, fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s (id bigint PRIMARY KEY, ttl bigint NOT NULL, "+
			"expires_ms bigint NOT NULL)", s.qualified(leaseTable)))
	}
	if !t.CompactIndex {
		todo = append(todo, "DROP INDEX IF EXISTS "+s.qualified(compactIndex), // it may be invalid
			fmt.Sprintf("CREATE INDEX %s ON %s (id) WHERE name = 'compact_rev_key'", compactIndex, name))
	}
	if s.Guard == nil || *s.Guard != guardSource || !t.Guarded {
		todo = append(todo, guardStatements(s.qualified(guardName), name)...)
	}
	if missing := missingStorage(t); len(missing) > 0 {
		todo = append(todo, fmt.Sprintf("ALTER TABLE %s SET (%s)", name, strings.Join(missing, ", ")))
	}
	for _, index := range t.Kine {
		todo = append(todo, "DROP INDEX IF EXISTS "+s.qualified(index))
	}
	return todo
}

// repairs mends what kine itself could not work with.
func (s *survey) repairs(t *table) []string {
	var todo []string
	name := s.qualified("kine")
	if !t.Primary {
		todo = append(todo, fmt.Sprintf("ALTER TABLE %s ADD PRIMARY KEY (id)", name))
	}
	if t.Identity == "a" {
		todo = append(todo, fmt.Sprintf("ALTER TABLE %s ALTER COLUMN id SET GENERATED BY DEFAULT", name))
	}
	if t.Sequence == nil {
		seq := s.qualified("kine_id_seq")
		if !s.Sequenced {
			todo = append(todo, "CREATE SEQUENCE "+seq)
		}
		return append(todo, fmt.Sprintf("ALTER SEQUENCE %s OWNED BY %s.id", seq, name),
			fmt.Sprintf("ALTER TABLE %s ALTER COLUMN id SET DEFAULT nextval(%s)", name, quote(seq)))
	}
	if t.attribute("id").Type == "int8" && t.Sequence.Max < math.MaxInt64 {
		todo = append(todo, fmt.Sprintf("ALTER SEQUENCE %s AS bigint NO MAXVALUE", t.Sequence.qualified()))
	}
	return todo
}

func (q *sequence) qualified() string { return pgx.Identifier{q.Schema, q.Name}.Sanitize() }

func missingStorage(t *table) []string {
	var missing []string
	has := func(options []string, name string) bool {
		return slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, name+"=") })
	}
	for _, o := range storage {
		if !has(t.Options, o.name) {
			missing = append(missing, o.name+" = "+o.value)
		}
		if t.Toast && onToast(o.name) && !has(t.ToastOptions, o.name) {
			missing = append(missing, "toast."+o.name+" = "+o.value)
		}
	}
	return missing
}

// shape is called when nothing is pending.
func (s *survey) shape() shape {
	sh := shape{utf8: s.Encoding == "UTF8", sequence: s.Table.Sequence.qualified(), idMax: s.Table.Sequence.Max}
	if c := s.Table.attribute("name"); c.Type == "varchar" && c.Modifier > 4 {
		sh.maxNameBytes = c.Modifier - 4
	}
	for _, name := range []string{"id", "create_revision", "prev_revision"} {
		if s.Table.attribute(name).Type == "int4" {
			sh.idMax = min(sh.idMax, math.MaxInt32)
		}
	}
	return sh
}
