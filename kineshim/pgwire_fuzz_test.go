package kineshim

import (
	"bufio"
	"bytes"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
)

// FuzzMessages: what PostgreSQL sends is cut into messages as another decoder cuts it, and an error says what it says there.
func FuzzMessages(f *testing.F) {
	b, err := (&pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: "23505", Message: "twice"}).Encode(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{'Z', 0, 0, 0, 5, 'I'})
	f.Add([]byte{'E', 0, 0, 0, 3})
	f.Add([]byte{'E', 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		head, body, err := readHead(r)
		if err != nil {
			return
		}
		if body < 0 || body > 1<<31 {
			t.Fatalf("a body of %d bytes", body)
		}
		if int64(r.Buffered()) < body || head[0] != msgError {
			return
		}
		content := b[5 : 5+body]
		got, err := parseFields(content)
		if err != nil {
			return
		}
		var theirs pgproto3.ErrorResponse
		if theirs.Decode(content) != nil {
			return
		}
		if strings.Count(string(content), "\x00") > 0 && got.sqlState() != theirs.Code && !repeated(content) {
			t.Fatalf("SQLSTATE %q, the other decoder has %q", got.sqlState(), theirs.Code)
		}
		_ = got.String()
	})
}

// repeated says whether there may be two fields of one type, of which decoders may take either.
func repeated(content []byte) bool { return bytes.Count(content, []byte{'C'}) > 1 }
