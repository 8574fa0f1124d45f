package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// standbyName is the standby's application_name, slot and entry in synchronous_standby_names.
const standbyName = "standby"

// Pair is a primary and a standby by streaming replication that every commit waits for. Its methods are for one goroutine at a time.
type Pair struct{ Primary, Standby *Server }

// StartPair makes both below dir, which must exist, be open to PostgreSQL's OS user, and have a path short enough for sockets. fsync is on;
// settings are name=value, for both. When it returns, commits wait for the standby's disk. The servers die with the thread that called it.
func StartPair(dir string, settings ...string) (*Pair, error) {
	bin, err := exec.Command("pg_config", "--bindir").Output()
	if err != nil {
		return nil, fmt.Errorf("pg_config: %w", err)
	}
	server := func(name string) (*Server, error) {
		s := &Server{Dir: filepath.Join(dir, name), bin: strings.TrimSpace(string(bin))}
		for _, setting := range append([]string{"fsync=on", "synchronous_commit=on", "max_connections=100"}, settings...) {
			s.args = append(s.args, "-c", setting)
		}
		return s, os.Mkdir(s.Dir, 0o700)
	}
	p := &Pair{}
	if p.Primary, err = server("primary"); err != nil {
		return nil, err
	}
	if p.Standby, err = server("standby"); err != nil {
		return nil, err
	}
	if err := p.start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start pair: %w", err), p.Remove())
	}
	return p, nil
}

func (p *Pair) start() error {
	if err := p.Primary.init(); err != nil {
		return err
	}
	if err := p.Primary.Resume(); err != nil {
		return err
	}
	if err := p.Primary.exec("CREATE ROLE " + Role + " LOGIN PASSWORD '" + Password + "'"); err != nil {
		return err
	}
	if err := p.clone(); err != nil {
		return err
	}
	if err := p.Standby.Resume(); err != nil {
		return err
	}
	if err := p.Primary.exec("ALTER SYSTEM SET synchronous_standby_names = '" + standbyName + "'"); err != nil {
		return err
	}
	if err := p.Primary.exec("SELECT pg_reload_conf()"); err != nil {
		return err
	}
	return p.waitSynchronous()
}

// clone copies the primary, with the settings that make the copy its standby.
func (p *Pair) clone() error {
	conninfo := fmt.Sprintf("host='%s' port=%d user=super password='%s' application_name=%s", p.Primary.Dir, Port, Password, standbyName)
	cmd, err := p.Standby.Command("pg_basebackup", "-d", conninfo, "-D", p.Standby.data(), "-X", "stream", "--checkpoint=fast",
		"--write-recovery-conf", "--create-slot", "--slot="+standbyName)
	if err != nil {
		return err
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_basebackup: %w: %s", err, out)
	}
	return nil
}

// waitSynchronous waits until the primary counts on the standby.
func (p *Pair) waitSynchronous() error {
	ctx, cancel := context.WithTimeout(context.Background(), startBound)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.Primary.SuperDSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	t := time.NewTicker(10 * time.Millisecond)
	defer t.Stop()
	for {
		var state string
		err := conn.QueryRow(ctx, "SELECT coalesce(max(sync_state), 'absent') FROM pg_stat_replication WHERE state = 'streaming'").Scan(&state)
		if err != nil {
			return fmt.Errorf("wait for the standby: %w", err)
		}
		if state == "sync" {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the standby: it is %s: %w", state, ctx.Err())
		case <-t.C:
		}
	}
}

// Remove kills both servers and removes their files.
func (p *Pair) Remove() error { return errors.Join(p.Primary.Remove(), p.Standby.Remove()) }

// Processes are the PIDs of the server's processes.
func (s *Server) Processes() []int { return s.processes() }
