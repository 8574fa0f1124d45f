package postgres

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kineshim/raftwitness/record"
)

func TestNewReportsEveryMistake(t *testing.T) {
	_, err := New(Config{
		DataDir:   "relative",
		StateDir:  "/tmp/" + strings.Repeat("long/", 20) + "er",
		Port:      70000,
		Peer:      HostPort{"a b", 0},
		Secrets:   Secrets{Superuser: "tiny", Replication: testSecrets.Replication, Kine: "with a space in it"},
		Settings:  map[string]string{"fsync": "off", "Work_Mem": "1MB", "work_mem": "1MB\nfsync=off", "synchronous_standby_names": ""},
		SlotKeep:  "-1",
		OSUser:    "nobody-of-this-name",
		BinDir:    "/nonexistent",
		SocketDir: "",
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`data directory "relative"`, "socket_dir", "at most 107 fit", "port 70000", "peer port 0", `peer host "a b"`,
		"password of kineshim:", "password of kine:", "postgres setting fsync: not allowed", `"Work_Mem"`, "work_mem: the value has a line break",
		"synchronous_standby_names: not allowed", `slot_keep "-1"`, "nobody-of-this-name", "bin_dir",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not mentioned", want)
		}
	}
	for _, no := range []string{"kineshim_repl", "tiny", "with a space"} {
		if strings.Contains(err.Error(), no) {
			t.Errorf("%q is mentioned in %v", no, err)
		}
	}
}

func TestForbiddenSettingsCoverWhatKineshimSets(t *testing.T) {
	s := &Server{cfg: testConfig("/tmp/x", 1, 2)}
	var set []string
	for _, kv := range append(s.lockedSettings(), s.ownSettings()...) {
		set = append(set, kv[0])
	}
	for _, name := range append(set, "primary_conninfo", "restore_command", "include", "data_sync_retry") {
		if err := validateSettings(map[string]string{name: "x"}); err == nil {
			t.Errorf("%s may be set by users", name)
		}
	}
	for _, kv := range defaultSettings {
		if err := validateSettings(map[string]string{kv[0]: "x"}); err != nil {
			t.Errorf("%s may not be set: %v", kv[0], err)
		}
	}
}

func TestUserSettingsReachTheServer(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1, func(c *Config) {
		c.Settings = map[string]string{"work_mem": "5MB", "jit": "on", "kineshim.quote": `it's a \ backslash`}
	}).withData(ctx)
	check(t, "start", a.Start(ctx, nil))
	for name, want := range map[string]string{"work_mem": "5MB", "jit": "on", "kineshim.quote": `it's a \ backslash`, "hba_file": a.hbaPath()} {
		if got := a.value(ctx, `SHOW `+name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if got := a.value(ctx, `SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL OR auth_method <> 'scram-sha-256' OR type <> 'local'`); got != "0" {
		t.Errorf("%s lines of pg_hba.conf are wrong", got)
	}
}

func TestParseControl(t *testing.T) {
	const output = `pg_control version number:            1300
Database system identifier:           7710292290503288088
Database cluster state:               shut down in recovery
Latest checkpoint location:           0/2000060
Latest checkpoint's TimeLineID:       2
Minimum recovery ending location:     16/B374D848
Min recovery ending loc's timeline:   3
Bytes per WAL segment:                16777216
`
	var d DataState
	check(t, "parse", d.parseControl(output))
	want := DataState{SystemID: 7710292290503288088, Timeline: 3, CheckpointTimeline: 2, ControlState: "shut down in recovery",
		MinRecovery: 0x16B374D848, Checkpoint: 0x2000060, WALSegmentBytes: 16 << 20}
	if diff := cmp.Diff(want, d); diff != "" {
		t.Error(diff)
	}
	if err := d.parseControl("WARNING: Calculated CRC checksum does not match value stored in file.\n" + output); err == nil {
		t.Error("a damaged file is accepted")
	}
	if err := d.parseControl(strings.Replace(output, "TimeLineID", "Zeitlinie", 1)); err == nil {
		t.Error("a missing field is accepted")
	}
}

func TestFits(t *testing.T) {
	peer := peerState{systemID: 1, timeline: 4, flushed: 500, forks: []ended{{1, 100}, {3, 300}}}
	for _, c := range []struct {
		name     string
		system   uint64
		timeline uint32
		have     record.LSN
		want     error
	}{
		{"same timeline, behind", 1, 4, 499, nil},
		{"same timeline, level", 1, 4, 500, nil},
		{"same timeline, ahead", 1, 4, 501, ErrDiverged},
		{"older timeline, up to the fork", 1, 3, 300, nil},
		{"older timeline, beyond the fork", 1, 3, 301, ErrDiverged},
		{"oldest timeline", 1, 1, 100, nil},
		{"oldest timeline, beyond its fork", 1, 1, 200, ErrDiverged},
		{"a timeline the peer never had", 1, 2, 50, ErrDiverged},
		{"a later timeline", 1, 5, 50, ErrDiverged},
		{"another database", 2, 4, 50, ErrForeign},
	} {
		if err := fits(peer, c.system, c.timeline, c.have); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

func TestParseHistory(t *testing.T) {
	got, err := parseHistory([]byte("# comment\n1\t0/1BA3A20\tno recovery target specified\n\n2\t16/B374D848\tbefore 2000-01-01 01:00:00+01\n"))
	check(t, "parse", err)
	if len(got) != 2 || got[0] != (ended{1, 0x1BA3A20}) || got[1] != (ended{2, 0x16B374D848}) {
		t.Errorf("parsed %+v", got)
	}
	for _, bad := range []string{"1\n", "x\t0/1\n", "1\t01\n"} {
		if _, err := parseHistory([]byte(bad)); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestParseProgress(t *testing.T) {
	var seen []string
	l := &lines{onLine: func(s string) { seen = append(seen, s) }}
	for _, part := range []string{"   10/20 kB (50%), 0/1", " tablespace\r", "done\nla", "st"} {
		l.Write([]byte(part))
	}
	l.flush()
	if diff := cmp.Diff([]string{"10/20 kB (50%), 0/1 tablespace", "done", "last"}, seen); diff != "" {
		t.Error(diff)
	}
	if done, total, ok := parseKilobytes(seen[0]); done != 10<<10 || total != 20<<10 || !ok {
		t.Errorf("parsed %d of %d (%v)", done, total, ok)
	}
	if _, _, ok := parseKilobytes("done"); ok {
		t.Error("no progress line is taken for one")
	}
}

func TestTheLogIsRotatedAtAStart(t *testing.T) {
	ctx := testContext(t)
	a := newNode(t, freePort(t), 1).withData(ctx)
	check(t, "big log", os.WriteFile(a.logPath(), make([]byte, maxLogBytes+1), 0o600))
	check(t, "start", a.Start(ctx, nil))
	fi, err := os.Stat(a.logPath() + ".1")
	check(t, "rotated log", err)
	if fi.Size() != maxLogBytes+1 || !strings.Contains(readAll(t, a.logPath()), "entering standby mode") {
		t.Error("the log was not rotated")
	}
}

// synced is a buffer for a log.
type synced struct {
	mu  sync.Mutex
	buf strings.Builder
}

func (b *synced) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *synced) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// cancelledContext has ended.
func cancelledContext() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}
