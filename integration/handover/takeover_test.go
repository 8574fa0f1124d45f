package handover

import (
	"testing"
	"time"

	"kineshim/integration/enginehost"
	"kineshim/kineshim/native"
)

// A takeover that is cut off leaves a table that anybody can take.
func TestTakeoverThatIsKilledChangesNothing(t *testing.T) {
	t.Parallel()
	const tries, longestStart = 8, 250 * time.Millisecond
	p := newPlace(t)
	w := newWriter(t, seeded(t))
	k := p.start(plainKine)
	defer func() { k.stop() }()
	ctx, cancel := soon()
	defer cancel()
	lease, err := k.Grant(ctx, 3600)
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for try := range tries {
		w.some(k, 30, 20)
		w.put(k, prefix+"leased", lease.ID)
		k.stop()
		if cutOff(t, p, time.Duration(w.rng.Int64N(int64(longestStart)))) {
			killed++
		}
		if try%2 == 0 {
			n := p.start(nativeEngine)
			shown, revision := n.everything(prefix)
			same(t, "the native engine", asKine(shown), asKine(w.objects))
			if revision < w.last() {
				t.Fatalf("revision %d after %d", revision, w.last())
			}
			for key, o := range shown {
				if o.version != w.objects[key].version {
					t.Errorf("%q has version %d, and was written %d times", key, o.version, w.objects[key].version)
				}
			}
			n.stop()
		}
		k = p.start(plainKine)
		shown, _ := k.everything(prefix)
		same(t, "kine", asKine(shown), asKine(w.objects))
	}
	t.Logf("%d of %d takeovers were killed before their end", killed, tries)
	if n := p.gaps(); n > 0 {
		t.Errorf("kine has filled %d holes, and nobody has made one", n)
	}
}

// cutOff starts the native engine and ends its sessions after a while. It says whether that was before it served.
func cutOff(t *testing.T, p *place, after time.Duration) bool {
	t.Helper()
	started := make(chan *enginehost.Host, 1)
	go func() {
		host, err := enginehost.Start(enginehost.Options{Engine: native.Factory(native.Config{}), PG: p.pg, Database: p.database})
		if err != nil {
			host = nil
		}
		started <- host
	}()
	time.Sleep(after)
	const end = "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() " +
		"AND application_name LIKE 'kineshim%') s"
	ask[int64](p, end)
	host := <-started
	if host != nil {
		_ = host.Close() // its sessions may have been ended
	}
	waitFor(t, "nothing is left of it", func() bool { return ask[int64](p, end) == 0 })
	return host == nil
}
