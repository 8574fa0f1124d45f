package kinetable

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// compactName is the row in which kine keeps the compacted revision.
	compactName = "compact_rev_key"
	// compactAPIName is where kine keeps the key of Kubernetes' that is named compact_rev_key: as "version|value".
	compactAPIName = "compact_rev_key_apiserver"
	// compactKey is that key.
	compactKey = "compact_rev_key"
	// escapePrefix begins the names of rows whose key is in ks_key.
	escapePrefix = "kineshim-bytes-"
	// maxIndexedBytes is what a row of each of kine's indexes takes whatever is in it: a third of a page is 2704 bytes,
	// of which some are its head and the other columns.
	maxIndexedBytes = 2000
)

// naming says which keys a table's name column holds as they are. Its zero value is for a database whose encoding is
// unknown.
type naming struct {
	maxChars int  // 0: no limit
	utf8     bool // the database holds all of UTF-8; if not, only ASCII
}

// name returns what is in the name column for a key, and whether the key itself must be in ks_key.
func (n naming) name(key string) (name string, escaped bool) {
	if key == compactKey {
		return compactAPIName, false
	}
	if n.fits(key) {
		return key, false
	}
	sum := sha256.Sum256([]byte(key))
	return escapePrefix + hex.EncodeToString(sum[:]), true
}

func (n naming) fits(key string) bool {
	if key == compactAPIName || len(key) > maxIndexedBytes || strings.HasPrefix(key, escapePrefix) {
		return false
	}
	ascii := true
	for i := range len(key) {
		if key[i] == 0 {
			return false
		}
		ascii = ascii && key[i] < utf8.RuneSelf
	}
	switch {
	case ascii:
		return n.maxChars == 0 || len(key) <= n.maxChars
	case !n.utf8 || !utf8.ValidString(key):
		return false
	default:
		return n.maxChars == 0 || utf8.RuneCountInString(key) <= n.maxChars
	}
}

// keyOf is the inverse of name.
func keyOf(name, ksKey []byte) string {
	switch {
	case ksKey != nil:
		return string(ksKey)
	case string(name) == compactAPIName:
		return compactKey
	}
	return string(name)
}

// encodeVersion is how kine stores a value of compactKey.
func encodeVersion(version int64, value []byte) []byte {
	b := strconv.AppendInt(make([]byte, 0, len(value)+8), version, 10)
	return append(append(b, '|'), value...)
}

// decodeVersion is the inverse of encodeVersion. Old releases of kine stored the version only, for which kine shows the
// value "0". The version is 0 if there is none.
func decodeVersion(stored []byte) (version int64, value []byte) {
	head, value, ok := bytes.Cut(stored, []byte("|"))
	if !ok {
		value = []byte("0")
	}
	version, err := strconv.ParseInt(string(head), 10, 64)
	if err != nil || version < 0 {
		version = 0
	}
	return version, value
}
