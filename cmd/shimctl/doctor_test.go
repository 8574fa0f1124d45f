package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kineshim/doctor"
	"kineshim/proto"
	"kineshim/raftwitness/record"
)

// sickly is the report on a node with something of everything.
func sickly() doctor.Report {
	return doctor.Report{
		Node: "a", Cluster: "c-7f3a", Other: "b", Failed: true,
		Findings: []doctor.Finding{
			{Check: "configuration", Found: "/etc/kineshim/kineshim.yaml is valid, and readable for the service's user kineshim and not for everybody (mode 0640)"},
			{Check: "ports", Found: "b answers at 192.168.1.11:2384 (Raft), as b-1a2b3c4d of cluster c-7f3a"},
			{Check: "ports", Level: doctor.Fail, Found: "w at 192.168.1.12:2384 (Raft): no answer within 2s", Do: []string{
				"a firewall drops it, here, there or between: on w, open TCP 2384 for a", "  ufw allow proto tcp from 192.168.1.10 to any port 2384",
				"or w is switched off, or has another address: ping 192.168.1.12"}},
			{Check: "virtual addresses", Found: "192.168.1.50 would be on eth0, and no neighbour has it"},
			{Check: "kineshim", Level: doctor.Warn, Found: "a serves. Automatic failover is NOT ARMED: if a is lost, nobody takes over by itself.\nthe witness is away", Do: []string{"shimctl status says what to do"}},
		},
	}
}

func TestTheReportIsALineForEachFindingAndWhatToDoBelow(t *testing.T) {
	want, err := os.ReadFile("testdata/doctor.txt")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), renderReport(sickly())); d != "" {
		t.Errorf("testdata/doctor.txt: %s", d)
	}
}

func TestDoctorsExitCodeIsThatOfTheReport(t *testing.T) {
	well := sickly()
	well.Failed, well.Findings = false, well.Findings[4:]
	for _, format := range []outputFormat{asTable, asJSON} {
		var out bytes.Buffer
		a := &app{stdout: &out}
		if err := a.showReport(well, format); err != nil {
			t.Errorf("%s: with a warning only: %v", format, err)
		}
		if err, ok := a.showReport(sickly(), format).(*exitError); !ok || err.code != exitFailed || err.err != nil {
			t.Errorf("%s: with a failure: %v", format, err)
		}
	}
}

func TestDoctorIsForProgramsToo(t *testing.T) {
	var out bytes.Buffer
	_ = (&app{stdout: &out}).showReport(sickly(), asJSON) // its exit code is tested above
	var got struct {
		Node, Cluster, Other string
		Failed               bool
		Findings             []struct {
			Check, Level, Found string
			Do                  []string
		}
	}
	if err := json.Unmarshal(out.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Node != "a" || !got.Failed || len(got.Findings) != 5 || got.Findings[2].Level != "fail" || got.Findings[0].Level != "ok" || len(got.Findings[2].Do) != 3 {
		t.Errorf("%s", out.Bytes())
	}
}

func TestDoctorNeedsAConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "none.yaml")
	invoke(t, nil, "", "doctor", "--config", path).expect(t, exitFailed, "FAIL  configuration  there is no "+path, "do: kineshim init and kineshim join write it")
	invoke(t, nil, "", "doctor", "now").expect(t, exitUsage, "stderr: now")
}

// Credentials for other machines do not lead it away from this one.
func TestDoctorLooksAtThisMachineWhateverTheCredentials(t *testing.T) {
	dir := socketDir(t)
	path := filepath.Join(dir, "kineshim.yaml")
	s := serve(t, &control{status: always(paired())})
	if err := os.WriteFile(path, []byte("node: a\ndata_dir: "+dir+"\ncontrol_socket: "+s+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	far := startAfar(t, record.Data, &control{status: always(orphaned())})
	t.Setenv(credentialsEnv, far.pass(t, time.Hour, time.Now(), far.address))
	invoke(t, nil, "", "doctor", "--config", path).expect(t, exitFailed, "a serves. Automatic failover is armed")
}

// The whole command on this machine, which has no cluster but a kineshim that answers.
func TestDoctorAsksTheRunningKineshim(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kineshim.yaml")
	if err := os.WriteFile(path, []byte(`node: a
data_dir: `+dir+`
members:
  a: {raft: 127.0.0.1:1, peer: 127.0.0.1:2, postgres: 127.0.0.1:3}
  b: {raft: 127.0.0.1:1, peer: 127.0.0.1:1, postgres: 127.0.0.1:1}
  w: {raft: 127.0.0.1:1}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, &control{status: always(variant(paired, func(st *proto.StatusResponse) { st.Version = "v0.0" }))})
	invoke(t, []string{s}, "", "doctor", "--config", path).expect(t, exitFailed,
		"this node is in no cluster yet", "on the first data node, once, as root: kineshim init", "b at 127.0.0.1:1 (Raft)", "fdatasync of 8 KiB", "kineshim v0.0 runs here, and shimctl is", "Run it on b too")
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("it has changed something: %v, %v", left, err)
	}
	invoke(t, []string{deadSocket(t)}, "", "doctor", "--config", path).expect(t, exitFailed, "kineshim does not run")
}
