package integration

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"kineshim/integration/cluster"
)

// freePort is one that nobody listens on now.
func freePort(t *testing.T) int {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

const clerkPassword = "correct horse"

// An application's acknowledged writes outlive the primary, and nobody but the primary answers it.
func TestApplicationsGoOnAfterAFailover(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster of real processes")
	}
	ports := map[string]int{cluster.A: freePort(t), cluster.B: freePort(t)}
	password := filepath.Join(t.TempDir(), "password")
	must(t, os.WriteFile(password, []byte(clerkPassword+"\n"), 0o600))
	ca, certs := newAuthority(t), t.TempDir()
	certFile, keyFile, caFile := filepath.Join(certs, "crt"), filepath.Join(certs, "key"), filepath.Join(certs, "ca")
	writePair(t, caFile, filepath.Join(certs, "ca.key"), tls.Certificate{Certificate: [][]byte{ca.cert.Raw}, PrivateKey: ca.key})
	writePair(t, certFile, keyFile, ca.issue(t, "kineshim"))
	r := newRig(t, func(o *cluster.Options) {
		o.Extra = map[string]string{}
		for node, port := range ports {
			o.Extra[node] = fmt.Sprintf("applications: {listen: [\"127.0.0.1:%d\"], cert_file: %s, key_file: %s, databases: [{name: shop, user: clerk, password_file: %s}]}\n",
				port, certFile, keyFile, password)
		}
	})
	r.log.set(t)
	t.Cleanup(func() {
		r.log.set(nil)
		if t.Failed() {
			r.keepEvidence(t)
		}
		r.destroy()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	must(t, r.StartAll(ctx))
	must(t, r.WaitArmed(ctx))
	dsn := func(node, user, database string) string {
		return fmt.Sprintf("postgres://%s:%s@127.0.0.1:%d/%s?sslmode=verify-full&sslrootcert=%s", user, strings.ReplaceAll(clerkPassword, " ", "%20"), ports[node], database, caFile)
	}
	var conn *pgx.Conn
	r.eventually(t, "connect to the primary", func(ctx context.Context) (err error) {
		conn, err = pgx.Connect(ctx, dsn(cluster.A, "clerk", "shop"))
		return err
	})
	_, err := conn.Exec(ctx, `CREATE TABLE sold (n int PRIMARY KEY)`)
	must(t, err)
	for n := range 100 {
		_, err := conn.Exec(ctx, `INSERT INTO sold VALUES ($1)`, n)
		must(t, err)
	}
	refused(t, ctx, dsn(cluster.B, "clerk", "shop"), "57P03", "a is the primary")
	refused(t, ctx, dsn(cluster.A, "kine", "kubernetes"), "28000", "not among kineshim's applications")
	refused(t, ctx, strings.Replace(dsn(cluster.A, "clerk", "shop"), "verify-full", "disable", 1), "28000", "without TLS")

	must(t, r.KillNode(cluster.A))
	began := time.Now()
	if err := conn.Ping(ctx); err == nil {
		t.Error("a dead node answers")
	}
	var sold int
	r.eventually(t, "count at the new primary", func(ctx context.Context) error {
		c, err := pgx.Connect(ctx, dsn(cluster.B, "clerk", "shop"))
		if err != nil {
			return err
		}
		defer c.Close(ctx)
		if _, err := c.Exec(ctx, `INSERT INTO sold VALUES (1000)`); err != nil {
			return err
		}
		return c.QueryRow(ctx, `SELECT count(*) FROM sold WHERE n < 1000`).Scan(&sold)
	})
	t.Logf("the application goes on %v after the kill", time.Since(began).Round(time.Millisecond))
	if sold != 100 {
		t.Errorf("%d of 100 acknowledged writes are left", sold)
	}

	must(t, r.Start(ctx, cluster.A))
	must(t, r.WaitArmed(ctx))
	open, err := pgx.Connect(ctx, dsn(cluster.B, "clerk", "shop"))
	must(t, err)
	defer open.Close(ctx)
	must(t, r.Switchover(ctx, cluster.A))
	if err := open.Ping(ctx); err == nil {
		t.Error("a connection goes on at a node that is the primary no longer")
	}
	refused(t, ctx, dsn(cluster.B, "clerk", "shop"), "57P03", "a is the primary")
	r.eventually(t, "connect after the switchover", func(ctx context.Context) error {
		c, err := pgx.Connect(ctx, dsn(cluster.A, "clerk", "shop"))
		if err != nil {
			return err
		}
		defer c.Close(ctx)
		return c.QueryRow(ctx, `SELECT count(*) FROM sold`).Scan(&sold)
	})
	if sold != 101 {
		t.Errorf("%d rows, not 101", sold)
	}
}

// refused: the connection is refused for the reason.
func refused(t *testing.T, ctx context.Context, dsn, code, why string) {
	t.Helper()
	c, err := pgx.Connect(ctx, dsn)
	if err == nil {
		c.Close(ctx)
	}
	var e *pgconn.PgError
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, why) {
		t.Errorf("%v, want %s %q", err, code, why)
	}
}
