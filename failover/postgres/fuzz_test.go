package postgres

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"kineshim/raftwitness/record"
)

// FuzzMarkers: what stands in the notes beside the data directory is read as it was written, or is an error: a note that cannot be read is never taken for one that says that
// all is well.
func FuzzMarkers(f *testing.F) {
	for _, v := range []any{
		dataMarker{Complete: true, What: "initdb", SystemID: 1 << 63}, dataMarker{What: "rewind", NeedsUpstream: true},
		Promotion{Epoch: 3, FromTimeline: 1, Timeline: 2, SwitchLSN: 1 << 40},
	} {
		b, err := json.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	f.Add([]byte{})
	path := filepath.Join(f.TempDir(), "data.json")
	f.Fuzz(func(t *testing.T, b []byte) {
		var data dataMarker
		var promotion Promotion
		for _, v := range []any{&data, &promotion} {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			there, err := readMarker(path, v)
			if err != nil {
				if there {
					t.Fatal("it cannot be read, and is there")
				}
				continue
			}
			if !there || !json.Valid(b) {
				t.Fatalf("it is taken: %q", b)
			}
			written, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, written, 0o600); err != nil {
				t.Fatal(err)
			}
			again := map[any]any{&data: new(dataMarker), &promotion: new(Promotion)}[v]
			if _, err := readMarker(path, again); err != nil {
				t.Fatal(err)
			}
			if twice, err := json.Marshal(again); err != nil || string(twice) != string(written) {
				t.Fatalf("%s became %s, %v", written, twice, err)
			}
		}
	})
}

// FuzzControl: pg_controldata's output is understood whole, or is an error.
func FuzzControl(f *testing.F) {
	const some = `Database system identifier:           7400000000000000000
Database cluster state:               in production
Latest checkpoint location:           0/1500028
Latest checkpoint's TimeLineID:       1
Minimum recovery ending location:     0/0
Min recovery ending loc's timeline:   0
Bytes per WAL segment:                16777216
`
	f.Add(some)
	f.Add("WARNING: Calculated CRC checksum does not match value stored in file.\n" + some)
	f.Add("")
	var good DataState
	if err := good.parseControl(some); err != nil { // else nothing would ever be looked at
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, out string) {
		var d DataState
		if d.parseControl(out) == nil && (d.Timeline < d.CheckpointTimeline || len(out) < len("Bytes per WAL segment")) {
			t.Fatalf("%+v", d)
		}
		_, _, _ = parseKilobytes(out)
	})
}

// FuzzReplication: of a walsender's messages, what is acknowledged only goes up, and never beyond what a message says that was sent.
func FuzzReplication(f *testing.F) {
	f.Add([]byte("w\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00data"), uint64(3))
	f.Add([]byte("k\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00\x01"), uint64(100))
	f.Add([]byte("k\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00\x00\x00\x00\x00\x00\x00\x01"), uint64(1<<40))
	f.Add([]byte{}, uint64(1))
	f.Fuzz(func(t *testing.T, b []byte, before uint64) {
		a := &acker{acked: record.LSN(before)}
		wanted, err := a.received(b)
		if uint64(a.acked) < before || err != nil && (wanted || uint64(a.acked) != before) {
			t.Fatalf("%d became %d, %t, %v", before, a.acked, wanted, err)
		}
	})
}
