package honesty

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"kineshim/integration/pgtest"
)

// saysWhy is what the refusal to start an engine has to say; noDatabase is all that it can say while the server comes up.
var (
	saysWhy    = regexp.MustCompile(`(?i)standby|recovery|read-only`)
	noDatabase = regexp.MustCompile(`failed to connect`)
)

const (
	// demotions is how often each database is demoted.
	demotions = 2
	// demotedFor and servingFor are how long it stays so, and how long it serves between.
	demotedFor = 800 * time.Millisecond
	servingFor = 300 * time.Millisecond
	// underWay is for what had begun before the demotion.
	underWay = 50 * time.Millisecond
)

// demotion is one way to make a database that cannot be written to.
type demotion struct {
	demote, restore func(r *rig)
	// absolute: nothing at all can be written meanwhile.
	absolute bool
	// refusesStart: engines do not even start.
	refusesStart bool
}

// tryDemotion has owners write while the database is demoted and restored.
func tryDemotion(t *testing.T, r *rig, d demotion) {
	rng := random(t)
	c := r.client()
	from := current(t, c) + 1
	k := r.keep()
	o := r.own(rng, writers)
	o.run()
	defer o.stop()
	var meanwhile, refusals int64
	for range demotions {
		time.Sleep(servingFor)
		k.wait()
		k.takeRefusals()
		d.demote(r)
		time.Sleep(underWay)
		acknowledged, refusedBefore := o.writes.answered.Load(), o.writes.refused.Load()+o.idle.refused.Load()
		time.Sleep(demotedFor)
		why := k.takeRefusals()
		reasoned := func() bool { return len(why) > 0 && saysWhy.MatchString(why[len(why)-1].Error()) }
		for deadline := time.Now().Add(recoverBound); d.refusesStart && !reasoned() && time.Now().Before(deadline); time.Sleep(retryPause) {
			why = append(why, k.takeRefusals()...) // while the server comes up, there is no other reason
		}
		written := o.writes.answered.Load() - acknowledged
		meanwhile += o.writes.refused.Load() + o.idle.refused.Load() - refusedBefore
		d.restore(r)
		refusals += int64(len(why))
		if d.absolute && written > 0 {
			t.Errorf("%d writes were acknowledged by a database that cannot be written to", written)
		}
		for _, text := range strings.Split(texts(why), "\n\t") {
			if text != "" && !saysWhy.MatchString(text) && !noDatabase.MatchString(text) {
				t.Errorf("an engine was refused without a word of why: %s", text)
			}
		}
		if d.refusesStart && !reasoned() {
			t.Error("the start of an engine was not refused, or not for the reason")
		}
		if len(why) > 0 {
			t.Logf("%d starts of engines were refused: %s", len(why), texts(why))
		}
		time.Sleep(10 * retryPause)
		k.wait()
	}
	time.Sleep(servingFor)
	o.stop()
	k.wait()
	k.stop()
	o.verify(t, c, from)
	t.Log(o)
	t.Logf("%d requests and %d starts of engines were refused while the database could not be written to", meanwhile, refusals)
	if d.absolute && meanwhile < 10*demotions || o.writes.answered.Load() < 50 {
		t.Error("that tries too little")
	}
}

// A primary that comes back as a standby.
func TestStandbyGivesNoFalseAnswer(t *testing.T) {
	pg := pgtest.New(t)
	r := start(t, options{pg: pg})
	tryDemotion(t, r, demotion{
		absolute: true, refusesStart: true,
		demote: func(r *rig) {
			pg.Kill()
			if err := os.WriteFile(filepath.Join(pg.Dir, "data", "standby.signal"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := pg.Resume(); err != nil {
				t.Fatal(err)
			}
			r.reconnect()
		},
		restore: func(r *rig) { r.sql("SELECT pg_promote()") },
	})
}

// A database whose sessions are read-only unless they say otherwise. An engine that says otherwise may write: then it has to be true.
func TestReadOnlyDatabaseGivesNoFalseAnswer(t *testing.T) {
	r := start(t, options{})
	tryDemotion(t, r, demotion{
		refusesStart: kine(),
		demote: func(r *rig) {
			r.sql("ALTER DATABASE " + r.host.Database + " SET default_transaction_read_only = on")
			r.terminate()
		},
		restore: func(r *rig) {
			r.sql("ALTER DATABASE " + r.host.Database + " RESET default_transaction_read_only")
			r.terminate()
		},
	})
}

// A database that lives and refuses every write.
func TestRefusedWritesAreNotFalseAnswers(t *testing.T) {
	r := start(t, options{})
	admin := r.pg.Admin(t, r.host.Database)
	sql := func(statement string) {
		t.Helper()
		ctx, cancel := call()
		defer cancel()
		if _, err := admin.Exec(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	tryDemotion(t, r, demotion{
		absolute: true,
		demote:   func(r *rig) { sql("REVOKE INSERT, UPDATE, DELETE ON kine FROM " + pgtest.Role) },
		restore:  func(r *rig) { sql("GRANT INSERT, UPDATE, DELETE ON kine TO " + pgtest.Role) },
	})
}
