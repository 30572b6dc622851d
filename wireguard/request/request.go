// Package request is what the agent and the wireguard process tell each other: one small file per
// device that the agent wants to exist. The process makes the device when the file comes and
// removes it when the file goes. It imports the standard library only, so that neither side drags
// in the other.
package request

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Dir is where the files are, on the host and in both containers.
const Dir = "/run/weftnet/wireguard"

const suffix = ".json"

// Limits of an MTU: the least that IPv6 allows and the largest IP packet.
const (
	minMTU = 1280
	maxMTU = 65535
)

// Request asks for one device.
type Request struct {
	// Name of the device, weft0 and so on.
	Name string `json:"name"`
	// MTU in bytes that the device starts with. The agent may change it on the link later.
	MTU int `json:"mtu"`
}

// The kernel allows 15 bytes. The name becomes part of paths, so it must hold nothing but these.
var validName = regexp.MustCompile(`^weft[a-z0-9]{1,11}$`)

// Validate joins all faults of a request.
func (r Request) Validate() error {
	var faults []error
	if !validName.MatchString(r.Name) {
		faults = append(faults, fmt.Errorf("name %q: want weft and up to 11 letters or digits", r.Name))
	}
	if r.MTU < minMTU || r.MTU > maxMTU {
		faults = append(faults, fmt.Errorf("mtu %d: want %d to %d", r.MTU, minMTU, maxMTU))
	}
	return errors.Join(faults...)
}

// Write puts a request into dir. It does nothing when the same one is there.
func Write(dir string, r Request) error {
	if err := r.Validate(); err != nil {
		return fmt.Errorf("request device: %w", err)
	}
	if have, err := read(path(dir, r.Name)); err == nil && have == r {
		return nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("request device %s: %w", r.Name, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("request device %s: %w", r.Name, err)
	}
	// The reader must find all of it or nothing.
	if err := WriteFile(path(dir, r.Name), append(data, '\n')); err != nil {
		return fmt.Errorf("request device %s: %w", r.Name, err)
	}
	return nil
}

// Remove takes a request back; one that is not there is no error.
func Remove(dir, name string) error {
	if err := os.Remove(path(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("take back the request for device %s: %w", name, err)
	}
	return nil
}

// List reads the requests in dir, sorted by name. A file that cannot be read or understood is left
// out and reported: the good ones go on, and the caller knows by its name which one is in doubt.
func List(dir string) ([]Request, []error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, []error{fmt.Errorf("list requests: %w", err)}
	}
	var requests []Request
	var faults []error
	for _, e := range entries {
		name, isRequest := strings.CutSuffix(e.Name(), suffix)
		if !isRequest {
			continue
		}
		r, err := read(filepath.Join(dir, e.Name()))
		if err == nil && r.Name != name {
			err = fmt.Errorf("it names device %q", r.Name)
		}
		if err != nil {
			faults = append(faults, &Fault{Name: name, Err: err})
			continue
		}
		requests = append(requests, r)
	}
	slices.SortFunc(requests, func(a, b Request) int { return strings.Compare(a.Name, b.Name) })
	return requests, faults
}

// Fault says which request is in doubt, and why.
type Fault struct {
	Name string
	Err  error
}

// Error is the name of the request and the reason.
func (f *Fault) Error() string {
	return fmt.Sprintf("read the request for device %s: %v", f.Name, f.Err)
}

// Unwrap is the reason.
func (f *Fault) Unwrap() error { return f.Err }

func path(dir, name string) string { return filepath.Join(dir, name+suffix) }

func read(path string) (Request, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Request{}, err
	}
	var r Request
	if err := json.Unmarshal(data, &r); err != nil {
		return Request{}, err
	}
	return r, r.Validate()
}

// WriteFile puts data into a file that only root can read, so that a reader finds all of it or what
// was there before. It need not survive the machine, only the writer: the directory is in memory.
func WriteFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
