package workload

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
)

// keysOfGeneration is how many keys clients contend for at a time.
const keysOfGeneration = 5

// Keys are the keys in use. They are changed now and then: the search for an order takes time and memory with the square of the requests on a key.
type Keys struct {
	// Prefix begins all keys, and ends in a slash. Nobody else writes below it.
	Prefix     string
	generation atomic.Int64
}

// Renew has requests from now on use keys that nobody used before.
func (k *Keys) Renew() { k.generation.Add(1) }

// Some returns n different keys.
func (k *Keys) Some(rnd *rand.Rand, n int) []string {
	var out []string
	for _, i := range rnd.Perm(keysOfGeneration)[:n] {
		out = append(out, fmt.Sprintf("%s%04d", k.family(i), k.generation.Load()))
	}
	return out
}

// family begins the i-th key of all generations.
func (k *Keys) family(i int) string { return fmt.Sprintf("%sk%d/", k.Prefix, i) }

// mark is a key that only one request writes.
func (k *Keys) mark(name string) string { return k.Prefix + "mark/" + name }
