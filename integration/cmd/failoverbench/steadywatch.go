package main

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	steadyWarm   = time.Second
	steadyWindow = 5 * time.Second
	// lastEventsWithin bounds the wait for the events of the last writes; what comes later is missing.
	lastEventsWithin = 3 * time.Second
)

// stamp is a revision and when it was told, since the line began.
type stamp struct {
	revision int64
	at       time.Duration
}

// lagsOf are the times from each write's response to its event at one watcher, 0 where the event came first, and how many events never came or
// came twice. Times are milliseconds.
func lagsOf(writes, events []stamp) (lags []float64, amiss int) {
	at := map[int64]time.Duration{}
	for _, e := range events {
		if _, twice := at[e.revision]; twice {
			amiss++
			continue
		}
		at[e.revision] = e.at
	}
	for _, w := range writes {
		seen, ok := at[w.revision]
		if !ok {
			amiss++
			continue
		}
		lags = append(lags, milliseconds(max(0, seen-w.at)))
	}
	return lags, amiss
}

// lagWatch is a watcher that only notes when events came.
type lagWatch struct {
	*watchStream
	began time.Time

	events []stamp // belongs to the goroutine of receive until that has returned
}

func (w *lagWatch) receive() {
	for {
		answer, err := w.stream.Recv()
		at := time.Since(w.began)
		if err == nil && answer.Canceled {
			err = errors.New(cancelReason(answer))
		}
		if err != nil {
			w.end(err)
			return
		}
		for _, ev := range answer.Events {
			w.events = append(w.events, stamp{ev.Kv.ModRevision, at})
			w.saw(ev.Kv.ModRevision)
		}
	}
}

// saw is for whoever waits for the last event.
func (w *lagWatch) saw(revision int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.last = max(w.last, revision)
}

// runWatch writes at the rate on the primary, and times the events at watchers on both nodes.
func (s *steadyBench) runWatch(ctx context.Context) ([]steadyResult, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	now, err := s.keys[0].update(ctx, s.kv(onPrimary, 0), make([]byte, steadyValue))
	if err == nil && now == 0 {
		now, err = s.keys[0].update(ctx, s.kv(onPrimary, 0), make([]byte, steadyValue)) // what was there has been learnt
	}
	if err != nil {
		return nil, err
	}
	began := time.Now()
	list := map[string][]*lagWatch{}
	var receiving sync.WaitGroup
	defer receiving.Wait()
	defer cancel()
	for _, at := range []string{onPrimary, onStandby} {
		for i := range watchesPerNode {
			w := &lagWatch{watchStream: openWatch(ctx, s.conns[at][i%connections], at, steadyPrefix, now), began: began}
			if w.ended != nil {
				return nil, w.ended
			}
			list[at] = append(list[at], w)
			receiving.Go(w.receive)
		}
	}
	var failed faults
	writes := s.write(ctx, began, &failed)
	last := int64(0)
	for _, w := range writes {
		last = max(last, w.revision)
	}
	awaitLast(ctx, list, last)
	for _, watchers := range list {
		for _, w := range watchers {
			w.stop()
		}
	}
	receiving.Wait()
	return lagResults(writes, list, &failed), ctx.Err()
}

// awaitLast waits until all watchers have seen the revision, or time is up.
func awaitLast(ctx context.Context, list map[string][]*lagWatch, last int64) {
	ctx, cancel := context.WithTimeout(ctx, lastEventsWithin)
	defer cancel()
	for _, watchers := range list {
		for _, w := range watchers {
			for !w.has(last) && wait(ctx, 10*time.Millisecond) {
			}
		}
	}
}

// write writes at the rate until the window ends. A store that is too slow gets fewer writes: what is due while all writers are busy and their queue
// is full is left out.
func (s *steadyBench) write(ctx context.Context, began time.Time, failed *faults) []stamp {
	due := make(chan struct{}, steadyWriters)
	written := make([][]stamp, steadyWriters)
	var running sync.WaitGroup
	for i := range steadyWriters {
		running.Go(func() {
			kv, value := s.kv(onPrimary, i), make([]byte, steadyValue)
			for n := 0; ; n++ {
				if _, ok := <-due; !ok {
					return
				}
				revision, err := s.keys[i+steadyWriters*(n%(steadyKeys/steadyWriters))].update(ctx, kv, value)
				if err != nil {
					failed.add(err)
				} else if revision > 0 {
					written[i] = append(written[i], stamp{revision, time.Since(began)})
				}
			}
		})
	}
	t := time.NewTicker(time.Millisecond)
	defer t.Stop()
	begin, sent := time.Now(), 0
	for since := time.Duration(0); since < steadyWarm+steadyWindow && ctx.Err() == nil; since = time.Since(begin) {
		for want := int(steadyRate * since.Seconds()); sent < want; sent++ {
			select {
			case due <- struct{}{}:
			default:
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	close(due)
	running.Wait()
	var all []stamp
	for _, list := range written {
		all = append(all, list...)
	}
	return all
}

// lagResults are those of the writes after the warm-up.
func lagResults(writes []stamp, list map[string][]*lagWatch, failed *faults) []steadyResult {
	first, last := time.Duration(0), time.Duration(0)
	for _, w := range writes {
		if first == 0 || w.at < first {
			first = w.at
		}
		last = max(last, w.at)
	}
	var counted []stamp
	for _, w := range writes {
		if w.at >= first+steadyWarm {
			counted = append(counted, w)
		}
	}
	var out []steadyResult
	for _, at := range []string{onPrimary, onStandby} {
		r := steadyResult{Kind: "steady", What: "watch", Node: at, Errors: failed.count, FirstError: failed.first}
		if window := last - first - steadyWarm; window > 0 {
			r.PerSecond = float64(len(counted)) / window.Seconds()
		}
		var lags []float64
		for _, w := range list[at] {
			l, amiss := lagsOf(counted, w.events)
			lags = append(lags, l...)
			r.Missing += amiss
			if w.ended != nil {
				r.Errors++
				r.FirstError = w.ended.Error()
			}
		}
		r.Count = len(lags)
		r.P50, r.P99, r.Max = quantiles(lags)
		out = append(out, r)
	}
	return out
}
