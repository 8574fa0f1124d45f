package native

import (
	"sync"
	"time"

	"kineshim/quiet"
)

// voice says what clients bring about as often as they like: the first time, and then once a minute at most.
type voice struct {
	mu   sync.Mutex // guards said
	said *quiet.Repeats
}

func newVoice() *voice { return &voice{said: quiet.New(quiet.Often)} }

// happened says whether to say so.
func (v *voice) happened(what string) quiet.Line {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.said.Happened(time.Now(), what, "")
}
