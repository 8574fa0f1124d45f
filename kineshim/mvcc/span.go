package mvcc

// Span is the set of keys k with From <= k, and k < To unless Open. Keys are compared byte by byte. The zero Span holds no
// key. Span is a value: comparable, and usable as a map key.
type Span struct {
	From, To string
	// Open: there is no upper bound, and To is not looked at.
	Open bool
}

// after returns the smallest key that is greater than key.
func after(key string) string { return key + "\x00" }

// Single returns the span that holds key and nothing else.
func Single(key string) Span { return Span{From: key, To: after(key)} }

// SpanOf returns the span that an etcd request means by key and range_end:
//
//	end empty     key alone
//	end "\x00"    all keys >= key
//	else          the keys in [key, end), none if end <= key
//
// It copies both: the caller may change the slices afterwards.
func SpanOf(key, end []byte) Span {
	switch {
	case len(end) == 0:
		return Single(string(key))
	case len(end) == 1 && end[0] == 0:
		return Span{From: string(key), Open: true}
	}
	return Span{From: string(key), To: string(end)}
}

// Contains says whether key is in the span.
func (s Span) Contains(key string) bool {
	return key >= s.From && (s.Open || key < s.To)
}

// Single returns the only key that the span can hold, if there is exactly one such key.
func (s Span) Single() (key string, ok bool) {
	n := len(s.From)
	if s.Open || len(s.To) != n+1 || s.To[n] != 0 || s.To[:n] != s.From {
		return "", false
	}
	return s.From, true
}

// Empty says that no key can be in the span.
func (s Span) Empty() bool { return !s.Open && s.To <= s.From }
