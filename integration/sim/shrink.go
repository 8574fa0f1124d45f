package sim

import "strings"

// maxShrink bounds the histories that Shrink tries: each takes some ten milliseconds.
const maxShrink = 400

// Shrink looks for the fewest failures with which the history still breaks, in the same manner. It leaves out ever smaller parts; what is left
// breaks, though not always by itself in the shortest way.
func (h History) Shrink() History {
	bad := manner(h.Run(false).Bad)
	if bad == "" {
		return h
	}
	all := len(h.Faults())
	if h.Keep == nil {
		h.Keep = make([]int, all)
		for i := range h.Keep {
			h.Keep[i] = i
		}
	}
	tries := 0
	for size := max(1, len(h.Keep)/2); size >= 1; {
		shorter := false
		for from := 0; from < len(h.Keep) && tries < maxShrink; {
			less := h
			less.Keep = append(append([]int{}, h.Keep[:from]...), h.Keep[min(len(h.Keep), from+size):]...)
			tries++
			if manner(less.Run(false).Bad) == bad {
				h, shorter = less, true
			} else {
				from += size
			}
		}
		if !shorter || size > 1 {
			size /= 2
		}
		if tries >= maxShrink {
			break
		}
	}
	return h
}

// manner is a violation without its names and numbers.
func manner(bad string) string {
	words := strings.Fields(bad)
	kept := words[:0]
	for _, w := range words {
		if len(w) > 1 && !strings.ContainsAny(w, "0123456789") {
			kept = append(kept, w)
		}
	}
	return strings.Join(kept, " ")
}
