package userspace

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tun"

	"github.com/weftnet/weftnet/wireguard/request"
)

// tunnel is one running device: TUN link, wireguard-go and UAPI socket.
type tunnel struct {
	request  request.Request
	log      *slog.Logger
	link     *os.File // the same open file that tun has
	tun      tun.Device
	device   *device.Device
	uapi     net.Listener
	restored int // peers found in the saved configuration

	mu    sync.Mutex // one change at a time: a check must not undo what a request has half done
	path  string
	saved string // what the file at path has
	port  string // listen port that the agent wants; wireguard-go forgets one that was taken
}

// start makes a device, or takes over the TUN link that an earlier process left, with its last
// configuration.
func start(config Config, r request.Request) (*tunnel, error) {
	t := &tunnel{request: r, log: config.Log.With("device", r.Name), path: savedPath(config.RequestDir, r.Name)}
	if err := t.openLink(config); err != nil {
		return nil, err
	}
	reader, err := batched(checkedTUN{t.tun}, t.link)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch TUN link %s: %w", r.Name, err), t.tun.Close())
	}
	t.device = device.NewDevice(reader, conn.NewDefaultBind(), logger(t.log, time.Now))
	t.restore()
	t.check()
	t.greet()
	// The socket comes last: who can connect finds the device as it was before a restart.
	uapi, err := listenUAPI(filepath.Join(config.SocketDir, r.Name+".sock"))
	if err != nil {
		t.device.Close()
		return nil, err
	}
	t.uapi = uapi
	go t.serve()
	return t, nil
}

func (t *tunnel) openLink(config Config) (err error) {
	if t.link, err = openTUN(t.request.Name); err != nil {
		return err
	}
	if t.tun, err = tun.CreateTUNFromFile(t.link, t.request.MTU); err != nil {
		return errors.Join(fmt.Errorf("set up TUN link %s: %w", t.request.Name, err), t.link.Close())
	}
	if err = config.Adopt(t.request.Name); err != nil {
		return errors.Join(err, t.tun.Close())
	}
	return nil
}

// restore brings back the configuration that an earlier process saved. Without one the device is
// blank and the agent fills it.
func (t *tunnel) restore() {
	data, err := os.ReadFile(t.path)
	if err != nil {
		if !errors.Is(err, os.ErrNotExist) {
			t.log.Warn("read the last configuration; the agent has to bring it", "error", err)
		}
		return
	}
	t.port = listenPort(string(data))
	// The port is left to check: were it taken, the request would end there, without the peers.
	if err := t.device.IpcSet(withoutListenPort(string(data))); err != nil {
		t.log.Warn("restore the last configuration; the agent has to bring it", "error", err)
		return
	}
	t.saved = string(data)
	t.restored = len(publicKeys(t.saved))
}

// check brings the device up, on the listen port that is wanted. wireguard-go brings itself up once
// and on a random port if the wanted one is taken at that moment; here it is tried again. Whether
// the link is up does not matter: without an address or a route it has nothing to carry.
func (t *tunnel) check() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.port != "" && listenPort(t.configuration()) != t.port {
		if err := t.device.IpcSet("listen_port=" + t.port + "\n"); err != nil {
			t.log.Warn("set the listen port", "port", t.port, "error", err)
		}
	}
	if err := t.device.Up(); err != nil {
		t.log.Warn("bring the device up", "error", err)
	}
}

// set carries out a UAPI request and saves the outcome before it is answered, even after an error:
// the lines before it count.
func (t *tunnel) set(lines string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := t.device.IpcSet(lines)
	if port := listenPort(lines); port != "" {
		t.port = port
	}
	t.saveLocked()
	return err
}

// greet starts a handshake with every peer whose endpoint is known. Their sessions with the earlier
// process are dead, and a peer that only sends would take 15 s to find out.
func (t *tunnel) greet() {
	for key, endpoint := range publicKeys(t.saved) {
		if peer := t.device.LookupPeer(key); peer != nil && endpoint {
			peer.SendKeepalive()
		}
	}
}

func (t *tunnel) running() bool {
	select {
	case <-t.device.Wait():
		return false
	default:
		return true
	}
}

// save writes the configuration, with the endpoints that peers have roamed to, if it has changed.
func (t *tunnel) save() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.saveLocked()
}

func (t *tunnel) saveLocked() {
	if !t.running() {
		return // what a closed device tells is not what was configured
	}
	now := withListenPort(t.configuration(), t.port)
	if now == t.saved {
		return
	}
	if err := request.WriteFile(t.path, []byte(now)); err != nil {
		t.log.Error("save the configuration; a restart would have to wait for the agent", "error", err)
		return
	}
	t.saved = now
}

func (t *tunnel) configuration() string {
	state, err := t.device.IpcGet() // fails only where it cannot write, and this writes to memory
	if err != nil {
		t.log.Error("read the configuration", "error", err)
	}
	return settings(state)
}

// close ends the device and leaves the TUN link.
func (t *tunnel) close() {
	_ = t.uapi.Close()
	t.device.Close()
}

// remove ends the device, and the link with it. The link goes through its open file, not by name:
// by now the name may belong to a kernel device.
func (t *tunnel) remove() {
	if err := setPersistent(t.link, false); err != nil && t.running() {
		t.log.Warn("let the TUN link go", "error", err)
	}
	t.close()
	if err := os.Remove(t.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.log.Warn("remove the saved configuration", "error", err)
	}
}
