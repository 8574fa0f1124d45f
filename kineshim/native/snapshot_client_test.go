package native_test

import (
	"bytes"
	"io"
	"testing"

	"kineshim/integration/enginehost"
	"kineshim/kineshim/native"
	"kineshim/kineshim/snapshot"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// TestEtcdsClientSavesASnapshot does what etcdctl snapshot save does, which refuses a stream without a checksum at its end.
func TestEtcdsClientSavesASnapshot(t *testing.T) {
	if testing.Short() {
		t.Skip("needs PostgreSQL")
	}
	h, err := enginehost.Start(enginehost.Options{Engine: native.Factory(native.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{h.Address()}, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, key := range []string{"a", "b", "c"} {
		if _, err := c.Put(t.Context(), key, string(make([]byte, 300_000))); err != nil {
			t.Fatal(err)
		}
	}
	r, err := c.SnapshotWithVersion(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Snapshot.Close()
	b, err := io.ReadAll(r.Snapshot)
	if err != nil || len(b)%512 != 32 || r.Version != "3.6.0" || r.Header.Revision != 4 {
		t.Fatalf("%d bytes, version %q, %v, %v", len(b), r.Version, r.Header, err)
	}
	if s, err := snapshot.Verify(bytes.NewReader(b)); err != nil || s.Keys != 3 || s.Revision != 4 {
		t.Errorf("%+v, %v", s, err)
	}
}
