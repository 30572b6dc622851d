package source

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// connected are both ends of a connection, the near one as the agent makes it.
func connected(t *testing.T) (near net.Conn, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err = dialPlain(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = near.Close() })
	if _, ok := near.(*plain); !ok {
		t.Fatalf("it is a %T", near)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return near, c.(*net.TCPConn)
}

// TestPlainReads : everything comes as it was sent, in whatever pieces, up to the end.
func TestPlainReads(t *testing.T) {
	near, far := connected(t)
	random := rand.New(rand.NewPCG(1, 2))
	sent := make([]byte, 1<<20)
	for i := range sent {
		sent[i] = byte(random.Uint32())
	}
	go func() {
		for rest := sent; len(rest) > 0; {
			n := min(len(rest), 1+random.IntN(5000))
			_, _ = far.Write(rest[:n])
			rest = rest[n:]
		}
		_ = far.CloseWrite()
	}()
	got, err := io.ReadAll(near)
	if err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%d bytes are read, %v", len(got), err)
	}
	if n, err := near.Read(nil); n != 0 || err != nil {
		t.Errorf("no bytes are %d, %v", n, err)
	}
}

// TestPlainEnds : each way in which a connection ends is told as any other connection tells it.
func TestPlainEnds(t *testing.T) {
	read := func(c net.Conn) error {
		_, err := c.Read(make([]byte, 1))
		return err
	}
	near, _ := connected(t)
	if err := near.SetReadDeadline(time.Now().Add(10 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	var timeout net.Error
	if err := read(near); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("after its deadline: %v", err)
	}
	near, far := connected(t)
	if err := errors.Join(far.SetLinger(0), far.Close()); err != nil {
		t.Fatal(err)
	}
	var op *net.OpError
	if err := read(near); !utilnet.IsConnectionReset(err) || !errors.As(err, &op) || op.Addr == nil {
		t.Errorf("reset by the other side: %v", err)
	}
	near, _ = connected(t)
	ended := make(chan error)
	go func() { ended <- read(near) }()
	_ = near.Close()
	if err := <-ended; !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed by us: %v", err)
	}
}
