package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kineshim/pki"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

// enrolled writes the enrolment of a member of a new cluster, 2 is the witness, and returns the cluster's ID.
func enrolled(t *testing.T, path string, member int) string {
	t.Helper()
	ids := raftwitness.Found("a", time.Second, []raftwitness.Peer{
		{Member: record.Member{Name: "a", Role: record.Data}, Raft: "a.example:2384"},
		{Member: record.Member{Name: "b", Role: record.Data}, Raft: "b.example:2384"},
		{Member: record.Member{Name: "w", Role: record.Witness}, Raft: "w.example:2384"},
	})
	authority, err := pki.NewAuthority(ids[2].ClusterID, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	e, err := ids[member].Enrolment(authority, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(e)
	if err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ids[member].ClusterID
}

func TestADataNodesFileIsNotTaken(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "b.json")
	enrolled(t, file, 1)
	var out bytes.Buffer
	data := filepath.Join(dir, "data")
	if code := run(context.Background(), []string{"join", "--config", filepath.Join(dir, "w.yaml"), "--data-dir", data, file}, strings.NewReader(""), &out, &out); code != 1 ||
		!strings.Contains(out.String(), `for the data node "b". On its machine: kineshim join`) {
		t.Errorf("exit %d: %s", code, &out)
	}
	if _, err := os.Stat(data); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v", data, err)
	}
}

func TestDryRunIsNotIgnored(t *testing.T) {
	for _, args := range [][]string{{"join", "--dry-run", "w.json"}, {"join", "w.json", "--dry-run"}, {"--config", "w.yaml", "--dry-run"}} {
		var out bytes.Buffer
		if code := run(context.Background(), args, strings.NewReader(""), &out, &out); code != 2 || !strings.Contains(out.String(), "--dry-run is for join with a token") {
			t.Errorf("%q: exit %d: %s", args, code, &out)
		}
	}
}

// What lies beside a cluster's directory is not run, and one that is damaged does not keep the others from voting.
func TestMembershipsAreToldApart(t *testing.T) {
	dir := t.TempDir()
	member := func(as string, i int) string {
		t.Helper()
		file := filepath.Join(t.TempDir(), "e.json")
		cluster := enrolled(t, file, i)
		e, err := raftwitness.ReadEnrolment(file)
		if err == nil {
			err = e.Save(filepath.Join(dir, cmp.Or(as, cluster)))
		}
		if err != nil {
			t.Fatal(err)
		}
		return cluster
	}
	good, data, copied := member("", 2), member("", 1), member("0123456789abcdef.bak", 2)
	other, damaged := member("0123456789abcdef", 2), member("", 2)
	for _, err := range []error{
		os.WriteFile(filepath.Join(dir, damaged, "identity.json"), []byte("{"), 0o600),
		os.MkdirAll(filepath.Join(dir, "lost+found", "identity.json"), 0o700),
		os.MkdirAll(filepath.Join(dir, "feedfeedfeedfeed"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	all, err := memberships(dir, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, m := range all {
		got[m.cluster] = fmt.Sprint(m.err)
	}
	want := map[string]string{good: "<nil>", data: "of the data node", "0123456789abcdef": "for another cluster, " + other, damaged: "identity"}
	for cluster, why := range want {
		if !strings.Contains(got[cluster], why) {
			t.Errorf("%s: %q, want %q", cluster, got[cluster], why)
		}
	}
	if len(got) != len(want) || strings.Count(log.String(), "\n") != 1 || !strings.Contains(log.String(), copied) {
		t.Errorf("%v\n%s", got, &log)
	}
}

func TestJoinByFileMayBeRunAgainAndLeavesNothingOfAVisit(t *testing.T) {
	dir := t.TempDir()
	file, config := filepath.Join(dir, "w.json"), filepath.Join(dir, "etc", "raftwitness.yaml")
	cluster := enrolled(t, file, 2)
	home := filepath.Join(dir, "data", cluster)
	visit := filepath.Join(home, "joining.json") // of an attempt with a token that came to nothing
	if err := os.MkdirAll(home, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(visit, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var out bytes.Buffer
		if code := run(context.Background(), []string{"join", "--config", config, "--data-dir", filepath.Join(dir, "data"), file}, strings.NewReader(""), &out, &out); code != 0 {
			t.Fatalf("exit %d: %s", code, &out)
		}
		if id, err := raftwitness.LoadIdentity(home); err != nil || id.Name != "w" || !strings.Contains(out.String(), id.ServerID) {
			t.Errorf("%+v, %v; said %s", id, err, &out)
		}
		if _, err := os.Stat(visit); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", visit, err)
		}
	}
}
