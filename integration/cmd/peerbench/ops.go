package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// The operations' names in the results.
const (
	opCreate     = "create"
	opUpdate     = "update"
	opDelete     = "delete"
	opGet        = "get"
	opList500    = "list500"
	opListAll    = "listall"
	opCount      = "count"
	opMixed      = "mixed"
	opHot        = "hot"
	opWatchSame  = "watch-same"
	opWatchOther = "watch-other"
)

// Wrong answers count as errors.
var (
	errRefused = errors.New("a create of a key that never was is refused")
	errCompare = errors.New("a compare fails though nobody else writes the key")
	errMissing = errors.New("a key that nobody deletes is missing, or its value is not what was written")
	errNoKeys  = errors.New("no keys are left to delete")
)

func create(ctx context.Context, w *worker) error {
	key, value := w.store.freshKey(), randomValue(w.rng)
	start := w.now()
	r, err := w.client.create(ctx, key, value)
	if err != nil {
		return err
	}
	w.done(start)
	if !r.succeeded {
		return errRefused
	}
	w.created = append(w.created, keyRevision{key: key, revision: r.revision})
	return nil
}

func update(ctx context.Context, w *worker) error {
	mine := (len(w.store.pool) - w.index + w.workers - 1) / w.workers
	k := &w.store.pool[w.index+w.workers*w.rng.IntN(mine)]
	value := randomValue(w.rng)
	start := w.now()
	err := k.update(ctx, w.client, value)
	if err == nil {
		w.done(start)
	}
	return err
}

// update replaces the key's value. A compare that fails after a write whose outcome is not known is no error.
func (k *keyRevision) update(ctx context.Context, c *client, value []byte) error {
	r, err := c.update(ctx, k.key, value, k.revision)
	if err != nil {
		k.doubt = true
		return err
	}
	doubted := k.doubt
	k.revision, k.doubt = r.revision, false
	if !r.succeeded && !doubted {
		return errCompare
	}
	return nil
}

func remove(ctx context.Context, w *worker) error {
	i := w.store.next.Add(1) - 1
	if i >= int64(len(w.store.created)) {
		return errNoKeys
	}
	return w.remove(ctx, w.store.created[i])
}

func (w *worker) remove(ctx context.Context, k keyRevision) error {
	start := w.now()
	r, err := w.client.remove(ctx, k.key, k.revision)
	if err != nil {
		return err
	}
	w.done(start)
	if !r.succeeded {
		return errCompare
	}
	return nil
}

func read(ctx context.Context, w *worker) error {
	return w.read(ctx, listKey(w.rng.IntN(listKeys)))
}

func (w *worker) read(ctx context.Context, key string) error {
	start := w.now()
	r, err := w.client.get(ctx, key)
	if err != nil {
		return err
	}
	w.done(start)
	if r.keys != 1 || r.lastKey != key || r.shortest != valueBytes {
		return errMissing
	}
	return nil
}

// listFirst is the first page of 10,000 keys.
func listFirst(ctx context.Context, w *worker) error { return w.firstPage(ctx, listPrefix, listKeys) }

func (w *worker) firstPage(ctx context.Context, prefix string, keys int) error {
	start := w.now()
	r, err := w.client.list(ctx, prefix, endOf(prefix), pageKeys, 0)
	if err != nil {
		return err
	}
	w.done(start)
	return r.check(pageKeys, keys > pageKeys)
}

// check finds answers that are not whole.
func (r ranged) check(keys int, more bool) error {
	if r.keys != keys || r.more != more || r.shortest != valueBytes || r.longest != valueBytes {
		return fmt.Errorf("a page of %d keys, more %t, was to be of %d, more %t, with values of %d bytes and not %d to %d", r.keys, r.more,
			keys, more, valueBytes, r.shortest, r.longest)
	}
	return nil
}

// listAll is all 10,000 keys in pages at one revision. Its pages count for the rate one by one, so that a listing that takes longer than
// the slice counts too; such a one's latency is what it would have been at its pace.
func listAll(ctx context.Context, w *worker) error {
	const pages = listKeys / pageKeys
	from, revision, start := listPrefix, int64(0), w.now()
	for page := range pages {
		began := w.now()
		r, err := w.client.list(ctx, from, endOf(listPrefix), pageKeys, revision)
		if err == nil {
			err = r.check(pageKeys, page < pages-1)
		}
		if err != nil {
			if page > 0 && ctx.Err() != nil {
				end := w.now()
				w.samples = append(w.samples, sample{start, end, 0, (end - start) * pages / time.Duration(page)})
			}
			return err
		}
		s := sample{began, w.now(), 1.0 / pages, 0}
		w.samples = append(w.samples, s)
		from = r.lastKey + "\x00"
		if revision == 0 {
			revision = r.revision
		}
	}
	end := w.now()
	w.samples = append(w.samples, sample{start, end, 0, end - start})
	return nil
}

// counter counts the keys of a prefix. want < 0: nobody knows how many there are.
func counter(prefix string, want int64) operation {
	return func(ctx context.Context, w *worker) error {
		start := w.now()
		n, err := w.client.count(ctx, prefix)
		if err != nil {
			return err
		}
		w.done(start)
		if want >= 0 && n != want {
			return fmt.Errorf("a count of %d, was to be %d", n, want)
		}
		return nil
	}
}

// mix is the mixed load: what kube-apiserver asks of its store when its own cache answers most reads.
func mix(ctx context.Context, w *worker) error {
	switch n := w.rng.IntN(100); {
	case n < 40:
		return read(ctx, w)
	case n < 79:
		return update(ctx, w)
	case n < 89 || n < 99 && len(w.created) == 0:
		return create(ctx, w)
	case n < 99:
		last := len(w.created) - 1
		k := w.created[last]
		w.created = w.created[:last]
		return w.remove(ctx, k)
	default:
		return listFirst(ctx, w)
	}
}

// hot replaces the one key's value. A lost race reads again, through the Else branch, and tries again. For the rate the try that succeeds
// counts, not the races lost before it: these get fewer as soon as a slice ends.
func hot(ctx context.Context, w *worker) error {
	start := w.now()
	if w.hotRev == 0 {
		r, err := w.client.get(ctx, hotKey)
		if err != nil {
			return err
		}
		w.hotRev = r.lastMod
	}
	for {
		try := w.now()
		r, err := w.client.update(ctx, hotKey, randomValue(w.rng), w.hotRev)
		if err != nil {
			return err
		}
		w.hotRev = r.revision
		if r.succeeded {
			end := w.now()
			w.samples = append(w.samples, sample{try, end, 1, end - start})
			return nil
		}
		w.retries++
	}
}
