package lease

import "slices"

// fewKeys is how many keys of one lease are kept in a slice. Kubernetes gives most of its leases one key, or some hundreds: a map
// for one key takes three times the memory, and a slice of hundreds takes long to search.
const fewKeys = 8

// keySet is the keys that go with one lease. The zero keySet is empty. It keeps the strings that it is given.
type keySet struct {
	few  []string            // in no order; nil if there are many
	many map[string]struct{} // nil if there are few
}

// add adds a key. It returns false if the keySet is as it was and need not be stored again.
func (s *keySet) add(key string) bool {
	switch {
	case s.many != nil:
		s.many[key] = struct{}{}
		return false
	case slices.Contains(s.few, key):
		return false
	case len(s.few) < fewKeys:
		if len(s.few) == cap(s.few) { // append would make room for more than most ever have
			s.few = append(make([]string, 0, min(2*len(s.few)+1, fewKeys)), s.few...)
		}
		s.few = append(s.few, key)
		return true
	}
	s.many = make(map[string]struct{}, len(s.few)+1)
	for _, k := range s.few {
		s.many[k] = struct{}{}
	}
	s.many[key] = struct{}{}
	s.few = nil
	return true
}

// remove takes a key away. It returns false if the keySet is as it was and need not be stored again.
func (s *keySet) remove(key string) bool {
	if s.many != nil {
		delete(s.many, key)
		if len(s.many) == 0 { // a map keeps its greatest size
			s.many = nil
			return true
		}
		return false
	}
	i := slices.Index(s.few, key)
	if i < 0 {
		return false
	}
	n := len(s.few) - 1
	s.few[i], s.few[n] = s.few[n], ""
	s.few = s.few[:n]
	return true
}

func (s *keySet) len() int { return len(s.few) + len(s.many) }

// all returns a copy of the keys, in no order; nil if there are none.
func (s *keySet) all() []string {
	if s.len() == 0 {
		return nil
	}
	keys := append(make([]string, 0, s.len()), s.few...)
	for key := range s.many {
		keys = append(keys, key)
	}
	return keys
}
