package main

import (
	"fmt"
	"math/rand/v2"
	"sync/atomic"
)

const (
	// valueBytes is the length of every value: that of a small Kubernetes object.
	valueBytes = 1024
	// listKeys are the keys below listPrefix, in listSpaces namespaces. They are read only.
	listKeys   = 10_000
	listSpaces = 20
	listPrefix = "/registry/configmaps/"
	// pageKeys is a page of a list, as kube-apiserver's clients ask for.
	pageKeys = 500
	// poolKeys are the keys that are updated.
	poolKeys = 4096
	hotKey   = "/registry/leases/kube-system/kube-controller-manager"
	// watchPrefix is what watchers watch; grownPrefix what grows to a million keys.
	watchPrefix = "/registry/services/"
	grownPrefix = "/registry/events/"
)

// The namespace of a count of few keys, and how many it has.
const (
	smallPrefix = listPrefix + "ns-07/"
	smallKeys   = listKeys / listSpaces
)

// keyRevision is a key and the revision at which it was last seen to be written.
type keyRevision struct {
	key      string
	revision int64
	// doubt: a write's outcome is not known, so that a compare may fail.
	doubt bool
}

// store is what a system holds, as far as the operations need to know. Between slices it is for one goroutine; within one, workers share
// it as each field says.
type store struct {
	pool []keyRevision // worker i of n has those with index ≡ i modulo n to itself
	// created may be deleted; workers take from it by next.
	created []keyRevision
	next    atomic.Int64
	fresh   atomic.Int64 // numbers the keys to be created
	watched []keyRevision
	grown   atomic.Int64
}

// listKey is the i-th key of the lists.
func listKey(i int) string {
	return fmt.Sprintf("%sns-%02d/config-%08x-%05d", listPrefix, i%listSpaces, mixed(i), i)
}

func poolKey(i int) string {
	return fmt.Sprintf("/registry/deployments/ns-%02d/app-%08x-%05d", i%50, mixed(i), i)
}

// freshKey is one that no call has returned before; they are spread over 100 namespaces.
func (s *store) freshKey() string {
	i := int(s.fresh.Add(1))
	return fmt.Sprintf("/registry/pods/ns-%02d/pod-%08x-%08d", i%100, mixed(i), i)
}

// grownKey is the i-th of the keys that grow.
func grownKey(i int) string {
	return fmt.Sprintf("%sns-%02d/event-%08x-%08d", grownPrefix, i%100, mixed(i), i)
}

// mixed spreads numbers, so that keys are not created in their order: Kubernetes' names end in random letters.
func mixed(i int) uint32 {
	x := uint32(i) * 0x9e3779b1
	x ^= x >> 15
	return x * 0x85ebca77
}

// values is where values are cut from: random, so that nobody can compress them, and long enough that they differ.
var values = func() []byte {
	b := make([]byte, 8<<20)
	src := rand.NewChaCha8([32]byte{1})
	_, _ = src.Read(b) // never fails
	return b
}()

// randomValue is one of about 8 million. It must not be changed.
func randomValue(rng *rand.Rand) []byte {
	i := rng.IntN(len(values) - valueBytes)
	return values[i : i+valueBytes]
}
