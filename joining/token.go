package joining

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"kineshim/raftwitness/record"
)

const (
	// tokenPrefix tells a token, and its version, from everything else that could be pasted instead.
	tokenPrefix = "kj1."
	// clusterBytes and secretBytes are what NewClusterID makes, and more than anybody can guess.
	clusterBytes = 8
	secretBytes  = 16
	// maxAddresses bounds the founder's addresses in a token, which has to fit into one line of a terminal.
	maxAddresses = 400
	// tokenHead is all but the addresses.
	tokenHead = 1 + clusterBytes + sha256.Size + secretBytes + 8
)

// Token is what an operator carries from the founder to another machine.
type Token struct {
	// Cluster is the ID of the cluster, Role what its holder becomes.
	Cluster string
	Role    record.Role
	// Authority is the SHA-256 of the authority's certificate, DER.
	Authority [sha256.Size]byte
	Secret    [secretBytes]byte
	// Expires is when the founder no longer takes it, by its clock, to the second.
	Expires time.Time
	// Addresses are where the founder is asked, host:port of Raft.
	Addresses []string
}

// ErrNoToken reports text that is no token, or not a whole one.
var ErrNoToken = errors.New("not a join token")

// roles by their number in a token.
var roles = []record.Role{record.Data, record.Witness}

// newSecret makes a secret that nobody can guess.
func newSecret() (s [secretBytes]byte) {
	rand.Read(s[:])
	return s
}

// String is the token as it is shown. It holds the secret.
func (t Token) String() string {
	b := make([]byte, 0, tokenHead+maxAddresses)
	for i, r := range roles {
		if r == t.Role {
			b = append(b, byte(i))
		}
	}
	cluster, _ := hex.DecodeString(t.Cluster) // made by NewClusterID
	b = append(b, cluster...)
	b = append(b, t.Authority[:]...)
	b = append(b, t.Secret[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(t.Expires.Unix()))
	b = append(b, strings.Join(t.Addresses, ",")...)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseToken reads a token. Spaces and line breaks in it, as terminals make them, do not matter.
func ParseToken(s string) (Token, error) {
	var t Token
	text, ok := strings.CutPrefix(strings.Join(strings.Fields(s), ""), tokenPrefix)
	if !ok {
		return t, fmt.Errorf("%w: it does not begin with %s", ErrNoToken, tokenPrefix)
	}
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(b) < tokenHead+crc32.Size || len(b) > tokenHead+maxAddresses+crc32.Size {
		return t, fmt.Errorf("%w: it is damaged, or not all of it is there: copy the whole line", ErrNoToken)
	}
	b, sum := b[:len(b)-crc32.Size], b[len(b)-crc32.Size:]
	if crc32.ChecksumIEEE(b) != binary.BigEndian.Uint32(sum) {
		return t, fmt.Errorf("%w: it is damaged, or not all of it is there: copy the whole line", ErrNoToken)
	}
	if int(b[0]) >= len(roles) {
		return t, fmt.Errorf("%w: it is for a role that this version does not know", ErrNoToken)
	}
	t.Role, b = roles[b[0]], b[1:]
	t.Cluster, b = hex.EncodeToString(b[:clusterBytes]), b[clusterBytes:]
	b = b[copy(t.Authority[:], b):]
	b = b[copy(t.Secret[:], b):]
	t.Expires, b = time.Unix(int64(binary.BigEndian.Uint64(b)), 0).UTC(), b[8:]
	t.Addresses = strings.Split(string(b), ",")
	return t, nil
}

// hash is what the founder keeps of a secret.
func hash(secret []byte) []byte {
	h := sha256.Sum256(secret)
	return h[:]
}
