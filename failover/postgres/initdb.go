package postgres

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// walSegmentMB is the size of a WAL file. A promotion begins its timeline with a whole file, written and synced before anything else goes
// on: that is most of the time that it takes, and so it is a quarter of what PostgreSQL's own 16 MB would be. At a few MB of WAL a second, a
// file every second or so costs nothing. A database keeps the size that it was made with, and the code works with any.
const walSegmentMB = 4

// InitDB makes a new database with data checksums, the roles and the database of this package. It refuses if a data
// directory exists (ErrExists). The data directory appears, by a rename, only when it is whole.
func (s *Server) InitDB(ctx context.Context) error {
	release, err := s.acquire(ctx)
	if err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	defer release()
	if err := s.initDB(ctx); err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	return nil
}

func (s *Server) initDB(ctx context.Context) error {
	if there, err := exists(s.cfg.DataDir); err != nil {
		return err
	} else if there {
		return fmt.Errorf("%s: %w", s.cfg.DataDir, ErrExists)
	}
	if _, err := s.MajorVersion(ctx); err != nil {
		return err
	}
	fresh, err := s.freshDataDir(ctx)
	if err != nil {
		return err
	}
	verifiers, err := s.cfg.Secrets.verifiers()
	if err != nil {
		return err
	}
	pwfile := s.statePath("initdb.pw")
	if err := s.writeConfig(pwfile, []byte(verifiers[Superuser]+"\n")); err != nil {
		return err
	}
	defer os.Remove(pwfile)
	s.log.Info("making a new database", "dir", s.cfg.DataDir)
	initdb := s.command(syscall.SIGKILL, "initdb", "-D", fresh, "-U", Superuser, "-k", "--auth=scram-sha-256", "--pwfile="+pwfile,
		"-E", "UTF8", "--locale=C", "--no-instructions", fmt.Sprintf("--wal-segsize=%d", walSegmentMB))
	if err := s.tool(ctx, initdb, nil); err != nil {
		return err
	}
	if err := s.singleUser(ctx, fresh, "postgres", s.roleStatements(verifiers)); err != nil {
		return err
	}
	if err := s.singleUser(ctx, fresh, Database, ownTables); err != nil {
		return err
	}
	return s.replaceDataDir(ctx, fresh, "initdb")
}

func (s Secrets) verifiers() (map[string]string, error) {
	v := make(map[string]string)
	for role, password := range map[string]string{Superuser: s.Superuser, ReplicationRole: s.Replication, KineRole: s.Kine} {
		verifier, err := scramVerifier(password)
		if err != nil {
			return nil, err
		}
		v[role] = verifier
	}
	return v, nil
}

// roleStatements makes what database postgres must hold. The functions are those that pg_rewind needs on its source when
// it is not run as superuser (PostgreSQL documentation, pg_rewind, Notes), and pg_control's timeline.
func (s *Server) roleStatements(verifiers map[string]string) []string {
	return []string{
		fmt.Sprintf(`CREATE ROLE %s LOGIN REPLICATION PASSWORD '%s'`, ReplicationRole, verifiers[ReplicationRole]),
		`GRANT EXECUTE ON FUNCTION pg_catalog.pg_ls_dir(text, boolean, boolean) TO ` + ReplicationRole,
		`GRANT EXECUTE ON FUNCTION pg_catalog.pg_stat_file(text, boolean) TO ` + ReplicationRole,
		`GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text) TO ` + ReplicationRole,
		`GRANT EXECUTE ON FUNCTION pg_catalog.pg_read_binary_file(text, bigint, bigint, boolean) TO ` + ReplicationRole,
		`GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_checkpoint() TO ` + ReplicationRole,
		`GRANT EXECUTE ON FUNCTION pg_catalog.pg_control_recovery() TO ` + ReplicationRole,
		fmt.Sprintf(`CREATE ROLE %s LOGIN PASSWORD '%s'`, KineRole, verifiers[KineRole]),
		fmt.Sprintf(`CREATE DATABASE %s OWNER %s ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`, Database, KineRole),
	}
}

// singleUser runs statements, one line each, in a server without network and without other processes. The first error
// ends it. The settings are initdb's: nothing waits for a standby.
func (s *Server) singleUser(ctx context.Context, dir, database string, statements []string) error {
	cmd := s.command(syscall.SIGKILL, "postgres", "--single", "-D", dir,
		"-c", "exit_on_error=true",
		"-c", "synchronous_standby_names=",
		"-c", "log_min_error_statement=panic",
		"-c", "log_destination=stderr",
		database)
	cmd.Stdin = strings.NewReader(strings.Join(statements, "\n") + "\n")
	return s.tool(ctx, cmd, nil)
}

// freshDataDir removes what earlier attempts have left and returns an empty directory beside the data directory.
func (s *Server) freshDataDir(ctx context.Context) (string, error) {
	if s.Running() {
		return "", ErrRunning
	}
	if err := s.prepareDirs(); err != nil {
		return "", err
	}
	if err := s.killAll(ctx); err != nil {
		return "", err
	}
	fresh := s.cfg.DataDir + newSuffix
	if err := os.RemoveAll(fresh); err != nil {
		return "", err
	}
	return fresh, s.makeOwnDir(fresh)
}

// replaceDataDir puts a whole, synced directory where the data directory is.
func (s *Server) replaceDataDir(ctx context.Context, fresh, what string) error {
	var d DataState
	if err := s.readControlOf(ctx, fresh, &d); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	// From here on nothing heeds ctx: the rest is short.
	if err := s.markData(false, what, d.SystemID, false); err != nil {
		return err
	}
	if err := removeDurably(s.promotionMarkerPath()); err != nil {
		return err
	}
	old := s.cfg.DataDir + oldSuffix
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	if err := os.Rename(s.cfg.DataDir, old); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("the data directory must not be a mount point: %w", err)
	}
	if err := os.Rename(fresh, s.cfg.DataDir); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(s.cfg.DataDir)); err != nil {
		return err
	}
	if err := s.markData(true, what, d.SystemID, false); err != nil {
		return err
	}
	if err := removeDurably(s.damagePath()); err != nil { // after: a crash in between costs another clone, and no more
		return err
	}
	return os.RemoveAll(old)
}
