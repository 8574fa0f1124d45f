package kinetable

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// After a write that took longer than a moment, pgx has a goroutine that reads the socket until PostgreSQL says something again.
func TestIdleConnectionThatSomebodyReadsIsLookedAtWithoutWaiting(t *testing.T) {
	pg, database := testDatabase(t)
	conn, err := pgx.Connect(soon(t), pg.DSN(database))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		close(started)
		_, err := conn.PgConn().Conn().Read(make([]byte, 1))
		ended <- err
	}()
	<-started
	for deadline := time.Now().Add(50 * time.Millisecond); time.Now().Before(deadline); {
		looked := make(chan bool, 1)
		go func() { looked <- alive(conn) }()
		select {
		case lives := <-looked:
			if !lives {
				t.Fatal("the connection is taken for dead")
			}
		case <-time.After(patience):
			t.Fatal("waits for the reader")
		}
	}
	abandon(conn)
	if err := <-ended; err == nil {
		t.Error("there was something to read")
	}
	if alive(conn) {
		t.Error("a closed connection lives")
	}
}
