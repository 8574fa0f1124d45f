package kinetable

import (
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
)

const (
	// maxStatementBytes and maxStatementRows bound what one INSERT takes: PostgreSQL holds a whole message in memory,
	// in several copies, and a message cannot be larger than 1 GB.
	maxStatementBytes = 16 << 20
	maxStatementRows  = 2000
	// maxKeptBuffer is the largest buffer that is kept for the next batch.
	maxKeptBuffer = 4 << 20

	// chainSetting is a setting of the writing session in which each batch leaves its number, in its transaction.
	// PostgreSQL executes what is in the pipeline behind a batch that has failed: such a batch finds another number
	// than the one before its own, and fails too, so that none is committed without those before it.
	chainSetting = "kineshim.batch"

	kineColumns = "id, name, created, deleted, create_revision, prev_revision, lease, value, old_value"
	ourColumns  = "ks_revision, ks_version, ks_create, ks_lease, ks_key"
	// attemptColumn is ours too, but only what Write stores has one.
	attemptColumn = "ks_attempt"
)

// chain is an SQL condition that is true if the batch before was committed, and an error if not. The error is the
// cast's; set_config is in it because PostgreSQL evaluates nothing volatile before it must.
const chain = `CASE WHEN current_setting('` + chainSetting + `') = %[1]s THEN set_config('` + chainSetting + `', %[2]s, false) = %[2]s
	ELSE set_config('` + chainSetting + `', 'the batch before it was not committed', true)::boolean END`

// The statements that the writing connection prepares.
const (
	insertOne  = "ks_insert_one"
	insertMany = "ks_insert_many"
	link       = "ks_link"
	compact    = "ks_compact"
	leases     = "ks_leases"
	revoke     = "ks_revoke"
	clock      = "ks_clock"
	access     = "ks_access"
	setLast    = "ks_set_last"
)

func writeStatements(sequence string) map[string]string {
	sequence = quote(sequence)
	return map[string]string{
		insertOne: `INSERT INTO kine (` + kineColumns + `, ` + ourColumns + `, ` + attemptColumn + `) SELECT
			CASE WHEN ` + fmt.Sprintf(chain, "$15::text", "$16::text") + ` THEN setval(` + sequence + `, $1::bigint) END,
			$2::text, $3::int, $4::int, $5::bigint, $6::bigint, $7::int, $8::bytea,
			CASE WHEN $17::bool THEN (SELECT p.value FROM kine p WHERE p.id = $6) ELSE $9::bytea END,
			$10::bigint, $11::bigint, $12::bigint, $13::bigint, $14::bytea, $18::bigint`,
		insertMany: `INSERT INTO kine (` + kineColumns + `, ` + ourColumns + `, ` + attemptColumn + `) SELECT
			u.id, u.name, u.created, u.deleted, u.create_revision, u.prev_revision, u.lease, u.value,
			CASE WHEN u.fetch_old THEN (SELECT p.value FROM kine p WHERE p.id = u.prev_revision) ELSE u.old_value END,
			u.ks_revision, u.ks_version, u.ks_create, u.ks_lease, u.ks_key, u.ks_attempt
			FROM (SELECT ` + fmt.Sprintf(chain, "$15::text", "$16::text") + ` AS linked, setval(` + sequence + `, $18::bigint) AS last OFFSET 0) s,
			(SELECT unnest($1::bigint[]) AS id, unnest($2::text[]) AS name, unnest($3::int[]) AS created, unnest($4::int[]) AS deleted,
				unnest($5::bigint[]) AS create_revision, unnest($6::bigint[]) AS prev_revision, unnest($7::int[]) AS lease,
				unnest($8::bytea[]) AS value, unnest($9::bytea[]) AS old_value, unnest($10::bigint[]) AS ks_revision,
				unnest($11::bigint[]) AS ks_version, unnest($12::bigint[]) AS ks_create, unnest($13::bigint[]) AS ks_lease,
				unnest($14::bytea[]) AS ks_key, unnest($17::bool[]) AS fetch_old, unnest($19::bigint[]) AS ks_attempt) u WHERE s.linked AND s.last IS NOT NULL`,
		link: `SELECT ` + fmt.Sprintf(chain, "$1::text", "$2::text"),
		// The row has the compacted revision, and in ks_create for which prev_revision it holds, because kine sets that alone.
		compact: `UPDATE kine SET prev_revision = $1::bigint, ks_create = $1, ks_revision = $2::bigint WHERE name = '` + compactName + `'`,
		leases: `INSERT INTO kineshim_lease (id, ttl, expires_ms) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])
			ON CONFLICT (id) DO UPDATE SET ttl = EXCLUDED.ttl, expires_ms = EXCLUDED.expires_ms`,
		revoke:  `DELETE FROM kineshim_lease WHERE id = ANY ($1::bigint[])`,
		clock:   `UPDATE kineshim_state SET lease_clock_ms = GREATEST(lease_clock_ms, $1::bigint)`,
		access:  `UPDATE kineshim_state SET access = $1::bytea`,
		setLast: `SELECT setval(` + sequence + `, $1::bigint)`,
	}
}

// Write sends a batch and does not wait for those before it, up to a bound of 256. The batch is committed when Done
// says so. An error means that the Store has failed. Nothing of b is used after Write has returned.
func (s *Store) Write(b Batch) error {
	if err := s.Why(); err != nil {
		return err
	}
	p := s.pipeline
	p.out.buf, p.counts = p.out.buf[:0], nil
	before := p.batch
	p.batch++
	if len(b.Rows) == 0 {
		at := p.out.bind(link, 2)
		p.link(before, p.batch)
		p.out.execute(at)
		p.counts = append(p.counts, noCount)
	}
	rows := b.Rows
	for first := 0; first < len(rows); before = p.batch {
		n := chunk(rows[first:])
		if n == 1 {
			p.one(s.naming, rows, first, before)
		} else {
			p.many(s.naming, rows, first, n, before)
		}
		p.counts = append(p.counts, int64(n))
		first += n
		p.lastID.Store(rows[first-1].ID)
	}
	if b.Compact != 0 {
		at := p.out.bind(compact, 2)
		p.out.bigint(b.Compact)
		p.out.bigint(b.CompactRevision)
		p.out.execute(at)
		p.counts = append(p.counts, 1)
	}
	p.leases(b)
	if b.Access != nil {
		at := p.out.bind(access, 1)
		p.out.bytes(b.Access)
		p.out.execute(at)
		p.counts = append(p.counts, 1)
	}
	p.out.sync()
	return p.send(expected{counts: p.counts})
}

// Done waits for the oldest batch that it has not reported yet, and returns nil only if PostgreSQL has said that its
// commit is done and has not warned of synchronous replication. An error means that the Store has failed: the batch and
// all later ones are committed or not. Without a batch it waits for the next one.
func (s *Store) Done() error { return s.pipeline.done() }

// chunk is how many of the rows go into the next statement.
func chunk(rows []Row) int {
	size := 0
	for i := range rows {
		size += len(rows[i].Key) + len(rows[i].Value) + len(rows[i].OldValue)
		if i > 0 && size > maxStatementBytes || i == maxStatementRows {
			return i
		}
	}
	return len(rows)
}

// link is the chain's two values.
func (p *pipeline) link(before, batch int64) {
	var digits [20]byte
	p.out.bytes(decimal(digits[:0], before))
	p.out.bytes(decimal(digits[:0], batch))
}

// one inserts rows[i].
func (p *pipeline) one(n naming, rows []Row, i int, before int64) {
	w := &p.out
	r := stored(n, rows, i)
	at := w.bind(insertOne, 18)
	r.encode(w, 8, 8)
	p.link(before, p.batch)
	w.boolean(r.fetch)
	w.nonZero(r.attempt)
	w.execute(at)
}

// many inserts rows[first:first+count], in one array for each column.
func (p *pipeline) many(n naming, rows []Row, first, count int, before int64) {
	w := &p.out
	all := make([]record, count)
	for i := range all {
		all[i] = stored(n, rows, first+i)
	}
	at := w.bind(insertMany, 19)
	column(w, pgtype.Int8OID, all, func(w *wire, r *record) { w.bigint(r.id) })
	column(w, pgtype.TextOID, all, func(w *wire, r *record) { w.text(r.name) })
	column(w, pgtype.Int4OID, all, func(w *wire, r *record) { w.integer(r.created) })
	column(w, pgtype.Int4OID, all, func(w *wire, r *record) { w.integer(r.deleted) })
	column(w, pgtype.Int8OID, all, func(w *wire, r *record) { w.bigint(r.createRevision) })
	column(w, pgtype.Int8OID, all, func(w *wire, r *record) { w.bigint(r.prevRevision) })
	column(w, pgtype.Int4OID, all, func(w *wire, r *record) { w.integer(r.lease) })
	column(w, pgtype.ByteaOID, all, func(w *wire, r *record) { w.nonEmpty(r.value) })
	column(w, pgtype.ByteaOID, all, func(w *wire, r *record) { w.nonEmpty(r.oldValue) })
	column(w, pgtype.Int8OID, all, func(w *wire, r *record) { w.nonZero(r.ksRevision) })
	column(w, pgtype.Int8OID, all, func(w *wire, r *record) { w.nonZero(r.ksVersion) })
	column(w, pgtype.Int8OID, all, func(w *wire, r *record) { w.nonZero(r.ksCreate) })
	column(w, pgtype.Int8OID, all, func(w *wire, r *record) { w.nonZero(r.ksLease) })
	column(w, pgtype.ByteaOID, all, func(w *wire, r *record) { r.encodeKey(w) })
	p.link(before, p.batch)
	column(w, pgtype.BoolOID, all, func(w *wire, r *record) {
		if r.fetch {
			w.boolean(true)
		} else {
			w.null()
		}
	})
	w.bigint(all[count-1].id)
	column(w, pgtype.Int8OID, all, func(w *wire, r *record) { w.nonZero(r.attempt) })
	w.execute(at)
}

// column writes an array, or NULL if all of its elements are: to the statement that is the same.
func column(w *wire, oid uint32, all []record, one func(*wire, *record)) {
	at := w.array(oid, len(all))
	first := len(w.buf)
	for i := range all {
		one(w, &all[i])
	}
	if len(w.buf) == first+4*len(all) {
		w.buf = w.buf[:at-4]
		w.null()
		return
	}
	w.endArray(at)
}

// leases adds the statements for the batch's leases.
func (p *pipeline) leases(b Batch) {
	w := &p.out
	if len(b.Revoked) > 0 {
		at := w.bind(revoke, 1)
		w.bigints(b.Revoked)
		w.execute(at)
		p.counts = append(p.counts, noCount)
	}
	if len(b.Leases) > 0 {
		ids, ttls, expires := leaseColumns(b.Leases)
		at := w.bind(leases, 3)
		w.bigints(ids)
		w.bigints(ttls)
		w.bigints(expires)
		w.execute(at)
		p.counts = append(p.counts, int64(len(ids)))
	}
	if len(b.Revoked)+len(b.Leases) > 0 {
		at := w.bind(clock, 1)
		w.bigint(b.LeaseClock.Milliseconds())
		w.execute(at)
		p.counts = append(p.counts, 1)
	}
}

// closing is what Close sends: kine's next ID.
func (p *pipeline) closing() {
	if last := p.lastID.Load(); last > 0 {
		at := p.out.bind(setLast, 1)
		p.out.bigint(last)
		p.out.execute(at)
	} else { // the table was not even loaded
		at := p.out.bind(revoke, 1)
		p.out.bigints([]int64{0})
		p.out.execute(at)
	}
	p.out.sync()
}

// leaseColumns are the leases by column, without those that come again later: one statement cannot change a row twice.
func leaseColumns(all []LeaseRow) (ids, ttls, expires []int64) {
	at := make(map[int64]int, len(all))
	for _, l := range all {
		i, again := at[l.ID]
		if !again {
			i = len(ids)
			at[l.ID] = i
			ids, ttls, expires = append(ids, 0), append(ttls, 0), append(expires, 0)
		}
		ids[i], ttls[i], expires[i] = l.ID, l.TTL, roundUp(l.Expires)
	}
	return ids, ttls, expires
}

// roundUp is in milliseconds: a lease never ends early.
func roundUp(d time.Duration) int64 {
	if d > math.MaxInt64-time.Millisecond {
		return d.Milliseconds()
	}
	return (d + time.Millisecond - 1).Milliseconds()
}
