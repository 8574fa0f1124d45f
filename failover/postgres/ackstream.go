package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"kineshim/raftwitness/record"
)

// The messages of the streaming replication protocol (PostgreSQL documentation, 55.4), inside CopyData.
const (
	walData      = 'w' // start LSN, end of WAL on the server, server time, data
	keepalive    = 'k' // end of WAL on the server, server time, whether a reply is wanted
	statusUpdate = 'r' // written, flushed, applied, client time, whether a reply is wanted

	walDataHeaderBytes = 1 + 8 + 8 + 8
	keepaliveBytes     = 1 + 8 + 8 + 1
)

// postgresEpoch is where PostgreSQL's timestamps begin.
var postgresEpoch = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// run acknowledges whatever arrives until the connection ends.
func (a *acker) run(frontend *pgproto3.Frontend) {
	defer close(a.done)
	defer a.conn.Close()
	for {
		msg, err := frontend.Receive()
		if err != nil {
			return
		}
		data, ok := msg.(*pgproto3.CopyData)
		if !ok {
			if isStreamNoise(msg) {
				continue
			}
			return
		}
		wanted, err := a.received(data.Data)
		if err != nil {
			return
		}
		// One acknowledgement covers all that has arrived.
		if wanted || frontend.ReadBufferLen() == 0 {
			if err := a.acknowledge(); err != nil {
				return
			}
		}
	}
}

func isStreamNoise(msg pgproto3.BackendMessage) bool {
	switch msg.(type) {
	case *pgproto3.NoticeResponse, *pgproto3.ParameterStatus:
		return true
	}
	return false
}

// received takes note of one message and reports whether the server wants a reply at once.
func (a *acker) received(b []byte) (replyWanted bool, err error) {
	var upTo uint64
	switch {
	case len(b) >= walDataHeaderBytes && b[0] == walData:
		upTo = binary.BigEndian.Uint64(b[1:]) + uint64(len(b)-walDataHeaderBytes)
	case len(b) >= keepaliveBytes && b[0] == keepalive:
		upTo = binary.BigEndian.Uint64(b[1:])
		replyWanted = b[17] != 0
	default:
		return false, errors.New("unknown replication message")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.acked = max(a.acked, record.LSN(upTo))
	return replyWanted, nil
}

// acknowledge says that everything received is written, flushed and applied. A walsender sends only what its own server has
// flushed, so that is true of the one disk that counts while kineshim acknowledges alone.
func (a *acker) acknowledge() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	b := []byte{statusUpdate}
	for range 3 {
		b = binary.BigEndian.AppendUint64(b, uint64(a.acked))
	}
	b = binary.BigEndian.AppendUint64(b, uint64(time.Since(postgresEpoch).Microseconds()))
	b = append(b, 0)
	msg, err := (&pgproto3.CopyData{Data: b}).Encode(nil)
	if err != nil {
		return err
	}
	if err := a.conn.SetWriteDeadline(time.Now().Add(ackWithin)); err != nil {
		return err
	}
	_, err = a.conn.Write(msg)
	return err
}

// awaitCounted waits until the server counts this connection among the synchronous standbys. Only then does an
// acknowledgement release what waits already, so the last one comes after it.
func (a *acker) awaitCounted(ctx context.Context, conn *pgconn.PgConn) error {
	const query = `SELECT to_json(count(*)) FROM pg_stat_replication
		WHERE application_name = '` + SoloName + `' AND state = 'streaming' AND sync_state IN ('sync', 'quorum')`
	what := func() string { return "the server does not count kineshim as a standby" }
	return poll(ctx, pollSolo, what, func() (bool, error) {
		if a.ended() {
			return false, fmt.Errorf("the server ended the connection: %w", net.ErrClosed)
		}
		if err := a.acknowledge(); err != nil {
			return false, err
		}
		var n int
		if _, err := queryJSON(ctx, conn, query, &n); err != nil || n == 0 {
			return false, err
		}
		return true, a.acknowledge()
	})
}

func (a *acker) ended() bool {
	select {
	case <-a.done:
		return true
	default:
		return false
	}
}

// close ends the connection and waits for run. It may be called more than once.
func (a *acker) close() {
	a.conn.Close()
	<-a.done
}
