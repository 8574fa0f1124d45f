package mvcc

import "sort"

// journalChunk is how many entries a journal allocates at a time.
const journalChunk = 1024

// journal is a list that grows at its end and is cut off at its beginning, without ever being copied as a whole. Entries do
// not move: a reader that has the chunks may go on reading what was in them when it got them.
type journal[T any] struct {
	chunks [][]T // none is empty
}

func (j *journal[T]) append(v T) {
	n := len(j.chunks)
	if n == 0 || len(j.chunks[n-1]) == journalChunk {
		j.chunks = append(j.chunks, make([]T, 0, journalChunk))
		n++
	}
	j.chunks[n-1] = append(j.chunks[n-1], v)
}

// last returns the newest entry, or nil.
func (j *journal[T]) last() *T {
	n := len(j.chunks)
	if n == 0 {
		return nil
	}
	chunk := j.chunks[n-1]
	return &chunk[len(chunk)-1]
}

// search returns the position of the first entry for which is is true, as a chunk and an index in it. is must be false for
// all entries before that and true for all after. If there is none, chunk is len(j.chunks) and i is 0.
func (j *journal[T]) search(is func(*T) bool) (chunk, i int) {
	chunk = sort.Search(len(j.chunks), func(c int) bool {
		entries := j.chunks[c]
		return is(&entries[len(entries)-1])
	})
	if chunk == len(j.chunks) {
		return chunk, 0
	}
	entries := j.chunks[chunk]
	return chunk, sort.Search(len(entries), func(i int) bool { return is(&entries[i]) })
}

// drop forgets the first n chunks.
func (j *journal[T]) drop(n int) {
	clear(j.chunks[:n])
	j.chunks = j.chunks[n:]
}

// cut forgets the entries from index i of a chunk on. What it keeps of that chunk it copies: a reader may still look at the
// entries whose places are filled again.
func (j *journal[T]) cut(chunk, i int) {
	var kept []T
	if i > 0 {
		kept = append(make([]T, 0, journalChunk), j.chunks[chunk][:i]...)
	}
	clear(j.chunks[chunk:])
	j.chunks = j.chunks[:chunk]
	if i > 0 {
		j.chunks = append(j.chunks, kept)
	}
}
