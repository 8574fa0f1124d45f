package postgres

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
)

func (s *Server) confPath() string     { return s.statePath("postgresql.conf") }
func (s *Server) hbaPath() string      { return s.statePath("pg_hba.conf") }
func (s *Server) identPath() string    { return s.statePath("pg_ident.conf") }
func (s *Server) upstreamPath() string { return s.statePath("upstream.conf") }

// upstreamPassfile is the walreceiver's alone: without it a walreceiver cannot connect, whatever its conninfo says.
func (s *Server) upstreamPassfile() string { return s.statePath("upstream.pgpass") }

// toolPassfile is that of pg_basebackup and pg_rewind.
func (s *Server) toolPassfile() string { return s.statePath("pgpass") }

// lockedSettings stand on the postmaster's command line, which beats every file, ALTER SYSTEM's included.
func (s *Server) lockedSettings() [][2]string {
	return [][2]string{
		{"config_file", s.confPath()},
		{"hba_file", s.hbaPath()},
		{"ident_file", s.identPath()},
		{"listen_addresses", ""},
		{"ssl", "off"},
		{"port", fmt.Sprint(s.cfg.Port)},
		{"unix_socket_directories", s.cfg.SocketDir},
		{"unix_socket_permissions", "0700"},
		{"synchronous_standby_names", SynchronousStandbyNames},
		{"synchronous_commit", "on"},
		{"fsync", "on"},
		{"full_page_writes", "on"},
		{"recovery_min_apply_delay", "0"},
		{"restart_after_crash", "on"},
	}
}

// ownSettings are the rest of what kineshim decides.
func (s *Server) ownSettings() [][2]string {
	return [][2]string{
		{"cluster_name", "kineshim"},
		{"wal_level", "replica"},
		{"wal_log_hints", "on"},
		{"hot_standby", "on"},
		{"hot_standby_feedback", "off"},
		{"max_wal_senders", "10"},
		{"max_replication_slots", "10"},
		{"max_slot_wal_keep_size", s.cfg.SlotKeep},
		{"wal_sender_timeout", "10s"},
		{"wal_receiver_timeout", "10s"},
		{"wal_receiver_status_interval", "1s"},
		{"wal_retrieve_retry_interval", "500ms"},
		{"recovery_target_timeline", "latest"},
		// A promotion replays all WAL first: a query on the standby must not hold it up.
		{"max_standby_streaming_delay", "250ms"},
		{"max_standby_archive_delay", "250ms"},
		{"archive_mode", "off"},
		{"superuser_reserved_connections", "10"},
		// Whoever has not said who he is takes a place from all.
		{"authentication_timeout", "15s"},
		{"password_encryption", "scram-sha-256"},
		{"update_process_title", "on"},
		{"track_activities", "on"},
		{"logging_collector", "off"},
		{"log_destination", "stderr"},
	}
}

// defaultSettings are what users may change.
var defaultSettings = [][2]string{
	{"max_connections", "200"},
	{"wal_keep_size", "64MB"},
	{"jit", "off"},
	{"timezone", "UTC"},
	{"log_timezone", "UTC"},
	{"lc_messages", "C"},
	{"log_line_prefix", "%m [%p] %q%u@%d %a "},
	{"log_checkpoints", "on"},
}

func (s *Server) renderConf() []byte {
	var b strings.Builder
	b.WriteString("# Written by kineshim at every start; changes are lost. Use postgres.settings in kineshim's configuration.\n")
	put := func(name, value string) {
		fmt.Fprintf(&b, "%s = '%s'\n", name, strings.NewReplacer(`'`, `''`, `\`, `\\`).Replace(value))
	}
	for _, kv := range defaultSettings {
		put(kv[0], kv[1])
	}
	for _, name := range slices.Sorted(maps.Keys(s.cfg.Settings)) {
		put(name, s.cfg.Settings[name])
	}
	for _, kv := range s.ownSettings() {
		put(kv[0], kv[1])
	}
	for _, kv := range s.lockedSettings()[3:] {
		put(kv[0], kv[1])
	}
	fmt.Fprintf(&b, "include '%s'\n", s.upstreamPath())
	return []byte(b.String())
}

func (s *Server) renderHBA() []byte {
	lines := []string{
		"# Written by kineshim at every start. What no line allows is refused.",
		"local all " + Superuser + " scram-sha-256",
		"local replication " + Superuser + "," + ReplicationRole + " scram-sha-256",
		"local " + Database + ",postgres " + KineRole + " scram-sha-256",
		"local postgres " + ReplicationRole + " scram-sha-256",
	}
	return []byte(strings.Join(append(lines, s.applicationHBA()...), "\n") + "\n")
}

// renderUpstream names the peer to the walreceiver; hostaddr "" leaves it to look the name up.
func (s *Server) renderUpstream(hostaddr string) []byte {
	return fmt.Appendf(nil, "primary_conninfo = '%s'\nprimary_slot_name = '%s'\n",
		s.peerConninfo(StandbyName, hostaddr)+" passfile="+s.upstreamPassfile(), StandbyName)
}

// noUpstream leaves a standby with what it has.
const noUpstream = "primary_conninfo = ''\nprimary_slot_name = ''\n"

// peerConninfo is how PostgreSQL's own programs reach the peer. It holds no password.
func (s *Server) peerConninfo(applicationName, hostaddr string) string {
	info := fmt.Sprintf("%s port=%d user=%s application_name=%s %s", s.peerHost(hostaddr), s.cfg.Peer.Port, ReplicationRole, applicationName, s.conninfoTLS())
	return info + " gssencmode=disable connect_timeout=5 keepalives_idle=5 keepalives_interval=2 keepalives_count=3"
}

func (s *Server) renderPassfile() []byte {
	return fmt.Appendf(nil, "*:*:*:%s:%s\n", ReplicationRole, s.cfg.Secrets.Replication)
}

// writeConf writes everything that the postmaster reads, but for upstream.conf.
func (s *Server) writeConf() error {
	files := []struct {
		path    string
		content []byte
	}{
		{s.confPath(), s.renderConf()},
		{s.hbaPath(), s.renderHBA()},
		{s.identPath(), []byte("# kineshim uses no user name maps\n")},
		{s.toolPassfile(), s.renderPassfile()},
	}
	for _, f := range files {
		if err := s.writeConfig(f.path, f.content); err != nil {
			return err
		}
	}
	if err := s.writeTLS(); err != nil {
		return err
	}
	return s.emptyAutoConf()
}

// emptyAutoConf undoes ALTER SYSTEM, and what a clone or a rewind has copied: PostgreSQL reads this file last.
func (s *Server) emptyAutoConf() error {
	const content = "# Emptied by kineshim. Use postgres.settings in kineshim's configuration instead of ALTER SYSTEM.\n"
	return s.writeConfig(filepath.Join(s.cfg.DataDir, "postgresql.auto.conf"), []byte(content))
}
