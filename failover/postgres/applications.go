package postgres

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// Application is a database of another application's, with the role that owns it.
type Application struct {
	// Database and User are names as ApplicationName says.
	Database, User string
	// Connections bounds the sessions of the role: those count too whose client has gone while a commit waits for the standby.
	Connections int
}

// applicationName keeps names to what needs no quotes in SQL or pg_hba.conf.
var applicationName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// ValidateApplicationName is an error for a database's or a role's name that an application may not have.
func ValidateApplicationName(name string) error {
	switch {
	case !applicationName.MatchString(name):
		return fmt.Errorf("%q is not a name: lower-case letters, digits and _, at most 63, not beginning with a digit", name)
	case slices.Contains([]string{
		Superuser, ReplicationRole, KineRole, Database, "postgres", "template0", "template1", // ours and PostgreSQL's
		"all", "sameuser", "samerole", "samegroup", "replication", // with a meaning in pg_hba.conf
		"public", "none", "user", "current_user", "session_user", "current_role", // and in SQL
	}, name) || strings.HasPrefix(name, "pg_"):
		return fmt.Errorf("%q is taken: it has a meaning of its own", name)
	}
	return nil
}

func validateApplications(all []Application) error {
	var errs []error
	for _, a := range all {
		errs = append(errs, ValidateApplicationName(a.Database), ValidateApplicationName(a.User))
		if a.Connections < 1 {
			errs = append(errs, fmt.Errorf("application %s: %d connections", a.Database, a.Connections))
		}
	}
	return errors.Join(errs...)
}

// applicationHBA lets each application into its own database, and nowhere else. The line is quoted although no name needs it: a keyword of
// pg_hba.conf loses its meaning then.
func (s *Server) applicationHBA() []string {
	var lines []string
	for _, a := range s.cfg.Applications {
		lines = append(lines, fmt.Sprintf(`local "%s" "%s" scram-sha-256`, a.Database, a.User))
	}
	return lines
}

// noCancel takes from an application the means to cancel its own commits while they wait for the standby, which would make them visible
// without having been replicated. They are functions of each database.
var noCancel = []string{
	`REVOKE EXECUTE ON FUNCTION pg_catalog.pg_cancel_backend(integer) FROM PUBLIC`,
	`REVOKE EXECUTE ON FUNCTION pg_catalog.pg_terminate_backend(integer, bigint) FROM PUBLIC`,
}

// EnsureApplication makes the application's role and database on a primary if they are missing, and sets the role's password and its bound. The
// password is one in printable ASCII, or a verifier as PostgreSQL stores it (SCRAM-SHA-256$...). What an application has in its database is
// left alone. Each step is a commit that waits for the standby; when ctx ends, those under way may yet happen, and a further call is safe.
func (s *Server) EnsureApplication(ctx context.Context, a Application, password string) error {
	if err := validateApplications([]Application{a}); err != nil {
		return fmt.Errorf("application %s: %w", a.Database, err)
	}
	verifier := password
	if !isVerifier(password) {
		if err := validatePassword(password); err != nil {
			return fmt.Errorf("application %s: %w", a.Database, err)
		}
		var err error
		if verifier, err = scramVerifier(password); err != nil {
			return fmt.Errorf("application %s: %w", a.Database, err)
		}
	}
	if err := s.ensureApplication(ctx, a, verifier); err != nil {
		return fmt.Errorf("application %s: %w", a.Database, err)
	}
	return nil
}

// verifierPattern is what PostgreSQL takes for a verifier (parse_scram_secret), and has no quotes.
var verifierPattern = regexp.MustCompile(`^SCRAM-SHA-256\$[1-9][0-9]*:[A-Za-z0-9+/=]+\$[A-Za-z0-9+/=]{44}:[A-Za-z0-9+/=]{44}$`)

func isVerifier(s string) bool { return verifierPattern.MatchString(s) }

// validatePassword: others would have to be normalised (SASLprep, RFC 4013) as each driver does it.
func validatePassword(p string) error {
	if len(p) < 8 || len(p) > 128 {
		return errors.New("the password has not 8 to 128 characters")
	}
	for _, c := range []byte(p) {
		if c < ' ' || c > '~' {
			return errors.New("the password is not printable ASCII; give PostgreSQL's verifier (SCRAM-SHA-256$...) instead")
		}
	}
	return nil
}

func (s *Server) ensureApplication(ctx context.Context, a Application, verifier string) error {
	conn, err := s.local(ctx, "postgres", "on")
	if err != nil {
		return err
	}
	defer closeSession(conn)
	if err := mustBePrimary(ctx, conn); err != nil {
		return err
	}
	if err := execute(ctx, conn, `SET log_min_error_statement = panic`); err != nil { // a verifier is for no log
		return err
	}
	role, err := isThere(ctx, conn, `SELECT to_json(EXISTS (SELECT FROM pg_roles WHERE rolname = '%s'))`, a.User)
	if err != nil {
		return err
	}
	verb := "ALTER"
	if !role {
		verb = "CREATE"
	}
	// The rest stands here for a role that somebody has given more to.
	err = execute(ctx, conn, fmt.Sprintf(`%s ROLE %s LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS CONNECTION LIMIT %d PASSWORD '%s'`,
		verb, a.User, a.Connections, verifier))
	if err != nil {
		return err
	}
	// A statement whose client is gone ends, also one that would go on for hours; a commit that waits for the standby does not.
	if err := execute(ctx, conn, fmt.Sprintf(`ALTER ROLE %s SET client_connection_check_interval = '10s'`, a.User)); err != nil {
		return err
	}
	database, err := isThere(ctx, conn, `SELECT to_json(EXISTS (SELECT FROM pg_database WHERE datname = '%s'))`, a.Database)
	if err != nil {
		return err
	}
	if !database {
		err := execute(ctx, conn, fmt.Sprintf(`CREATE DATABASE %s OWNER %s ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`, a.Database, a.User))
		if err != nil {
			return err
		}
		s.log.Info("a database was made for an application", "database", a.Database, "owner", a.User)
	}
	if err := execute(ctx, conn, `REVOKE CONNECT, TEMPORARY ON DATABASE `+a.Database+` FROM PUBLIC`); err != nil {
		return err
	}
	if err := execute(ctx, conn, `GRANT CONNECT, TEMPORARY ON DATABASE `+a.Database+` TO `+a.User); err != nil {
		return err
	}
	return s.forbidCancel(ctx, a.Database)
}

// forbidCancel works in the application's database. It names all that it uses in full: an application may have made things of the same name.
func (s *Server) forbidCancel(ctx context.Context, database string) error {
	conn, err := s.local(ctx, database, "on")
	if err != nil {
		return err
	}
	defer closeSession(conn)
	for _, sql := range noCancel {
		if err := execute(ctx, conn, sql); err != nil {
			return err
		}
	}
	return nil
}

// isThere runs a query of one boolean. The name needs no quotes.
func isThere(ctx context.Context, conn *pgconn.PgConn, query, name string) (there bool, err error) {
	_, err = queryJSON(ctx, conn, fmt.Sprintf(query, name), &there)
	return there, err
}
