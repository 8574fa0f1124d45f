package postgres

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

// connectWithin bounds one connection attempt, whatever the caller's context: a frozen postmaster accepts and is silent.
const connectWithin = 5 * time.Second

var errNoCancel = errors.New("this session sends no cancel request")

// connect opens a session over the unix socket; see connectTLS.
func connect(ctx context.Context, host string, port int, user, password, database string, params map[string]string) (*pgconn.PgConn, error) {
	return connectTLS(ctx, nil, host, port, user, password, database, params)
}

// connectTLS opens a session with exactly the given parameters: no environment variable and no service file adds to them.
//
// secure, unless nil, is the TLS without which no word is said.
//
// The session is unable to send a cancel request, which the driver would otherwise do whenever a context ends: a cancelled
// commit that waits for the standby becomes visible without having been replicated.
func connectTLS(ctx context.Context, secure *tls.Config, host string, port int, user, password, database string, params map[string]string) (*pgconn.PgConn, error) {
	cfg, err := pgconn.ParseConfig("host=/ port=1 user=x password=x dbname=x sslmode=disable passfile=/dev/null target_session_attrs=any")
	if err != nil {
		return nil, err
	}
	cfg.Host, cfg.Port, cfg.User, cfg.Password, cfg.Database = host, uint16(port), user, password, database
	cfg.RuntimeParams, cfg.TLSConfig = params, secure
	cfg.Fallbacks, cfg.ValidateConnect, cfg.AfterConnect = nil, nil, nil
	cfg.ConnectTimeout = connectWithin
	// A server that is not ours must not be able to ask for the password in the clear.
	cfg.RequireAuth = "scram-sha-256"
	cfg.BuildContextWatcherHandler = func(c *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.DeadlineContextWatcherHandler{Conn: c.Conn()}
	}
	cfg.OnNotice = func(c *pgconn.PgConn, n *pgconn.Notice) { c.CustomData()[warningKey] = n.Message }
	var dialled atomic.Bool
	dialer := &net.Dialer{KeepAlive: 5 * time.Second}
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if dialled.Load() {
			return nil, errNoCancel
		}
		c, err := dialer.DialContext(ctx, network, address) // a name may have several addresses
		dialled.Store(err == nil)
		return c, err
	}
	return pgconn.ConnectConfig(ctx, cfg)
}

// local opens a superuser session over the unix socket.
func (s *Server) local(ctx context.Context, database, synchronousCommit string) (*pgconn.PgConn, error) {
	if _, err := s.current(); err != nil {
		return nil, err
	}
	return connect(ctx, s.cfg.SocketDir, s.cfg.Port, Superuser, s.cfg.Secrets.Superuser, database, map[string]string{
		"application_name":                    "kineshim",
		"synchronous_commit":                  synchronousCommit,
		"search_path":                         "pg_catalog",
		"statement_timeout":                   "0",
		"lock_timeout":                        "0",
		"idle_session_timeout":                "0",
		"client_min_messages":                 "warning",
		"client_connection_check_interval":    "0",
		"default_transaction_read_only":       "off",
		"idle_in_transaction_session_timeout": "0",
	})
}

// withLocal runs f in a superuser session on database postgres, alone. Sessions are kept for the next verb, because opening
// one takes longer than most verbs and a failover needs several; none outlives an error.
func (s *Server) withLocal(ctx context.Context, f func(*pgconn.PgConn) error) error {
	c, err := s.current()
	if err != nil {
		return err
	}
	conn := c.idle.take()
	if conn == nil {
		if conn, err = s.local(ctx, "postgres", "on"); err != nil {
			return err
		}
	}
	if err := f(conn); err != nil {
		closeSession(conn)
		return err
	}
	c.idle.give(conn)
	return nil
}

// maxIdle is how many sessions are kept. Few verbs run side by side.
const maxIdle = 2

// idleSessions are those that no verb uses now.
type idleSessions struct {
	mu sync.Mutex
	// open is nil once shut says that no more are kept.
	open []*pgconn.PgConn
	shut bool
}

// take returns a session that the server has not ended, or nil.
func (i *idleSessions) take() *pgconn.PgConn {
	i.mu.Lock()
	defer i.mu.Unlock()
	for len(i.open) > 0 {
		last := len(i.open) - 1
		conn := i.open[last]
		i.open = i.open[:last]
		if isIdle(conn) {
			return conn
		}
		closeSession(conn)
	}
	return nil
}

// isIdle looks at the session's socket: nothing has arrived, not even its end. Whether it works, the next query finds out.
func isIdle(conn *pgconn.PgConn) bool {
	sc, ok := conn.Conn().(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Control(func(fd uintptr) { quiet = isQuiet(fd) })
	return err == nil && quiet
}

func (i *idleSessions) give(conn *pgconn.PgConn) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.shut || len(i.open) >= maxIdle || conn.IsClosed() {
		closeSession(conn)
		return
	}
	i.open = append(i.open, conn)
}

// close ends all sessions, now and from now on.
func (i *idleSessions) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, conn := range i.open {
		closeSession(conn)
	}
	i.open, i.shut = nil, true
}

// warningKey is where a session keeps the last warning it got.
const warningKey = "warning"

// warned returns the last warning that the session got, "" for none.
func warned(conn *pgconn.PgConn) string {
	w, _ := conn.CustomData()[warningKey].(string)
	return w
}

// closeSession ends a session; it does not wait longer than a moment for a server that is frozen.
func closeSession(conn *pgconn.PgConn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn.Close(ctx)
}

// queryJSON runs a query whose one row has one column, of type json, and decodes it. A query without rows leaves out as it
// is and returns false.
func queryJSON(ctx context.Context, conn *pgconn.PgConn, sql string, out any) (bool, error) {
	results, err := conn.Exec(ctx, sql).ReadAll()
	if err != nil {
		return false, err
	}
	if len(results) != 1 || len(results[0].Rows) == 0 {
		return false, nil
	}
	row := results[0].Rows[0]
	if len(row) != 1 {
		return false, fmt.Errorf("%d columns, not 1", len(row))
	}
	return true, json.Unmarshal(row[0], out)
}

// execute runs statements whose rows do not matter.
func execute(ctx context.Context, conn *pgconn.PgConn, sql string) error {
	_, err := conn.Exec(ctx, sql).ReadAll()
	return err
}

// inRecovery asks a new session whether the server is a standby.
func (s *Server) inRecovery(ctx context.Context) (bool, error) {
	var is bool
	err := s.withLocal(ctx, func(conn *pgconn.PgConn) error {
		_, err := queryJSON(ctx, conn, `SELECT to_json(pg_is_in_recovery())`, &is)
		return err
	})
	return is, err
}

// cannotConnectNow is the SQLSTATE of a server that starts, ends, or begins anew.
const cannotConnectNow = "57P03"

// sqlState returns the error's SQLSTATE, "" if PostgreSQL did not send one.
func sqlState(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// KineDSN is the endpoint under which kine's pgsql driver connects as KineRole through the socket in socketDir: Config's own,
// or that of a relay in front of it. It holds the password.
func (s *Server) KineDSN(socketDir string) string {
	u := url.URL{
		Scheme: "postgres",
		User:   url.UserPassword(KineRole, s.cfg.Secrets.Kine),
		Path:   "/" + Database,
		RawQuery: url.Values{
			"host":               {socketDir},
			"port":               {strconv.Itoa(s.cfg.Port)},
			"sslmode":            {"disable"},
			"synchronous_commit": {"on"},
		}.Encode(),
	}
	return u.String()
}
