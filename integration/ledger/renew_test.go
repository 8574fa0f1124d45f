package ledger

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestRenewersShareOneKeyAndStopWithTheWorkers(t *testing.T) {
	for seed := range uint64(20) {
		m := newMemory(seed)
		m.unknown = int(seed%3) * 15
		in := Input{Prefix: "/registry/ledger/"}
		synctest.Test(t, func(t *testing.T) {
			rec, err := NewRecorder("")
			if err != nil {
				t.Fatal(err)
			}
			load := Load{Endpoints: []Endpoint{{"a", m}}, Recorder: rec, Prefix: in.Prefix, Workers: 2, Requests: 300, Think: time.Millisecond,
				Renewers: []Endpoint{{"a", m}, {"b", m}, {"c", m}}, RenewEvery: 5 * time.Millisecond, Seed: seed}
			if err := load.Run(context.Background()); err != nil {
				t.Fatal(err)
			}
			m.lateAll.Wait()
			time.Sleep(time.Millisecond)
			if in.Final, err = rec.ReadFinal(context.Background(), m, in.Prefix, time.Second); err != nil {
				t.Fatal(err)
			}
			in.Entries, in.Histories = rec.Entries(), []History{m.history()}
		})
		for _, v := range Check(in, everyPromise) {
			t.Errorf("seed %d: an honest store was accused: %s", seed, v)
		}
		renewed, refused, others := map[string]int{}, 0, 0
		for _, e := range in.Entries {
			switch {
			case e.Worker < 2:
				others++
			case e.Key != in.Prefix+renewedKey:
				t.Fatalf("seed %d: a renewer asked for %s", seed, e.Key)
			case e.Outcome == Acknowledged:
				renewed[e.Endpoint]++
			case e.Outcome == Refused:
				refused++
			}
		}
		if len(renewed) != 3 || refused == 0 || others != 300 {
			t.Errorf("seed %d: acknowledged %v, refused %d, others %d", seed, renewed, refused, others)
		}
	}
}
