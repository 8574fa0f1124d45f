package kinetable

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// copyBuffer is what goes to PostgreSQL at once.
const copyBuffer = 64 << 10

// Replace empties the table and puts the rows in, which yield gets ascending by ID: all of it or nothing. After it,
// Load finds the rows and meta. FetchOld is not allowed in them. It must not run with Write, reads or Load; they wait
// for it. An error of rows, or of yield, ends it.
func (s *Store) Replace(ctx context.Context, meta Meta, rows func(yield func(Row) error) error) error {
	var last int64
	err := s.helpers.with(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return synchronously(ctx, conn, func(tx pgx.Tx) error {
			var err error
			last, err = s.replace(ctx, tx, meta, rows)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("replace the table: %w", err)
	}
	s.identityUpto.Store(0)
	s.pipeline.lastID.Store(last)
	return nil
}

func (s *Store) replace(ctx context.Context, tx pgx.Tx, meta Meta, rows func(yield func(Row) error) error) (lastID int64, err error) {
	if _, err := tx.Exec(ctx, "TRUNCATE kine, kineshim_lease"); err != nil {
		return 0, err
	}
	in := restorer{naming: s.naming, compacted: meta.Compacted}
	if in.idBytes, in.revisionBytes, err = columnSizes(ctx, tx); err != nil {
		return 0, err
	}
	if err := in.copy(ctx, tx.Conn().PgConn(), rows); err != nil {
		return 0, err
	}
	if lastID, err = in.compactRow(ctx, tx, meta); err != nil {
		return 0, err
	}
	ids, ttls, expires := leaseColumns(meta.Leases)
	if _, err := tx.Exec(ctx, "INSERT INTO kineshim_lease (id, ttl, expires_ms) SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[])",
		ids, ttls, expires); err != nil {
		return 0, fmt.Errorf("leases: %w", err)
	}
	if _, err := tx.Exec(ctx, "UPDATE kineshim_state SET lease_clock_ms = $1, identity_upto = 0, lineage = 0", meta.LeaseClock.Milliseconds()); err != nil {
		return 0, fmt.Errorf("state: %w", err)
	}
	_, err = tx.Exec(ctx, "SELECT setval("+quote(s.shape.sequence)+", $1::bigint)", lastID)
	return lastID, err
}

// columnSizes returns how many bytes the table's IDs have, and the revisions that kine stores: 4 in old tables.
func columnSizes(ctx context.Context, tx pgx.Tx) (id, revision int, err error) {
	var previous int
	err = tx.QueryRow(ctx, `SELECT max(attlen) FILTER (WHERE attname = 'id'), max(attlen) FILTER (WHERE attname = 'create_revision'),
		max(attlen) FILTER (WHERE attname = 'prev_revision') FROM pg_attribute WHERE attrelid = 'kine'::regclass`).Scan(&id, &revision, &previous)
	if err == nil && revision != previous {
		err = errors.New("create_revision and prev_revision are of different types")
	}
	return id, revision, err
}

// restorer makes COPY's binary form of rows.
type restorer struct {
	naming                 naming
	idBytes, revisionBytes int
	compacted              int64 // revision

	rows            int64
	firstID, lastID int64
	revision        int64 // of the last row
	compactedID     int64 // the last row at or before compacted
	compactKeyID    int64 // the last row of Kubernetes' compact_rev_key, and what is stored in it
	compactKeyValue []byte
	out             wire
}

func (r *restorer) copy(ctx context.Context, conn *pgconn.PgConn, rows func(yield func(Row) error) error) error {
	reader, writer := io.Pipe()
	ended := make(chan error, 1)
	go func() { // ends when the pipe's other end is closed, at the latest; waited for
		err := r.write(writer, rows)
		writer.CloseWithError(err) // nil: EOF
		ended <- err
	}()
	tag, err := conn.CopyFrom(ctx, reader, "COPY kine ("+kineColumns+", "+ourColumns+") FROM STDIN (FORMAT binary)")
	reader.CloseWithError(errors.New("the copy has ended"))
	if failed := <-ended; failed != nil && (err == nil || ctx.Err() == nil) {
		return errors.Join(failed, err)
	}
	if err == nil && tag.RowsAffected() != r.rows {
		err = errShort
	}
	return err
}

func (r *restorer) write(to io.Writer, rows func(yield func(Row) error) error) error {
	w := bufio.NewWriterSize(to, copyBuffer)
	if _, err := w.WriteString(copySignature + "\x00\x00\x00\x00\x00\x00\x00\x00"); err != nil {
		return err
	}
	err := rows(func(row Row) error {
		if err := r.take(row); err != nil {
			return err
		}
		_, err := w.Write(r.out.buf)
		return err
	})
	if err != nil {
		return err
	}
	if err := binary.Write(w, binary.BigEndian, int16(-1)); err != nil {
		return err
	}
	return w.Flush()
}

// take encodes one row into out.
func (r *restorer) take(row Row) error {
	switch {
	case row.ID <= r.lastID || row.Revision < r.revision || row.Revision > row.ID || row.Revision < 1:
		return fmt.Errorf("row %d of revision %d comes after row %d of revision %d", row.ID, row.Revision, r.lastID, r.revision)
	case row.FetchOld:
		return fmt.Errorf("row %d has no old value", row.ID)
	}
	stored := stored(r.naming, []Row{row}, 0)
	if row.Key == compactKey {
		stored.fetch = false
		if row.PrevID != 0 && !row.Created {
			stored.oldValue = encodeVersion(max(row.Version-1, 1), row.OldValue)
			if row.PrevID == r.compactKeyID {
				stored.oldValue = r.compactKeyValue
			}
		}
		r.compactKeyID, r.compactKeyValue = row.ID, stored.value
	}
	r.rows++
	if r.rows == 1 {
		r.firstID = row.ID
	}
	if row.Revision <= r.compacted {
		r.compactedID = row.ID
	}
	r.lastID, r.revision = row.ID, row.Revision
	r.out.buf = r.out.buf[:0]
	r.out.int16(14)
	stored.encode(&r.out, r.idBytes, r.revisionBytes)
	return nil
}

// compactRow inserts kine's own row such that Load finds meta, and returns the table's last ID.
func (r *restorer) compactRow(ctx context.Context, tx pgx.Tx, meta Meta) (lastID int64, err error) {
	if meta.Compacted > meta.Revision || meta.Revision > meta.LastID || r.revision > meta.Revision || r.lastID > meta.LastID || meta.LastID < 1 {
		return 0, fmt.Errorf("the last row is %d of revision %d, which is not what %d, revision %d, compacted %d say",
			r.lastID, r.revision, meta.LastID, meta.Revision, meta.Compacted)
	}
	if meta.Compacted > 0 && (r.compactedID == 0 || r.revision <= meta.Compacted) {
		// The rows of that revision may be gone: it is also that of any ID up to the next row's.
		r.compactedID = max(r.compactedID, meta.Compacted)
		if meta.Compacted == meta.Revision {
			r.compactedID = meta.LastID
		}
	}
	id, own := int64(1), int64(0)
	lastID = meta.LastID
	if r.rows > 0 && r.firstID == 1 || max(r.revision, meta.Compacted, 1) < meta.Revision || max(r.lastID, 1) < meta.LastID {
		// It must be behind the rows: it is then what says where IDs and revisions go on, to plain kine too.
		lastID = max(meta.LastID, r.lastID+1)
		id, own = lastID, meta.Revision
	}
	_, err = tx.Exec(ctx, `INSERT INTO kine (id, name, created, deleted, create_revision, prev_revision, lease, value, old_value,
		ks_revision, ks_version, ks_create) VALUES ($1, $2, 1, 0, 0, $3, 0, '', NULL, $4, $5, $6)`,
		id, compactName, r.compactedID, null(meta.Compacted), null(own), null(r.compactedID))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", compactName, err)
	}
	return lastID, nil
}

// null makes 0 NULL.
func null(v int64) *int64 {
	if v == 0 {
		return nil
	}
	return &v
}

// synchronously runs f in a transaction whose commit waits for the standby, and returns an error if PostgreSQL says
// that it did not.
func synchronously(ctx context.Context, conn *pgx.Conn, f func(pgx.Tx) error) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // does nothing after a commit
	if _, err := tx.Exec(ctx, "SET LOCAL synchronous_commit = on"); err != nil {
		return err
	}
	if err := f(tx); err != nil {
		return err
	}
	delete(conn.PgConn().CustomData(), commitDoubt)
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	if doubt, ok := conn.PgConn().CustomData()[commitDoubt]; ok {
		return fmt.Errorf("%w: %v", ErrInDoubt, doubt)
	}
	return nil
}

// commitDoubt is where a connection keeps a warning by which its last commit is in doubt.
const commitDoubt = "kineshim.doubt"

// keepDoubt is the connections' OnNotice.
func keepDoubt(conn *pgconn.PgConn, n *pgconn.Notice) {
	if lostSync(n.Routine, n.Message) {
		conn.CustomData()[commitDoubt] = n.Message
	}
}
