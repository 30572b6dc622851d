package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/weftnet/weftnet/agent/state"
)

// item is a chain, set or counter of the table. It stands for as long as somebody uses it.
type item struct {
	key       string // kind and name
	uses      int
	committed bool
	// One of these.
	counter string
	chain   *state.Chain
	fixed   *state.Set
	live    *liveSet
	// group says what a live set follows, if anything.
	group *group
}

// compiled is the table in parts, and what has changed in them since the last commit.
type compiled struct {
	items   map[string]*item
	touched map[*item]bool

	inNamespace map[string]map[*group]bool
	anywhere    map[*group]bool
	ofNodes     map[*group]bool

	profiles map[string]*profile
	sites    map[string]*siteUse
	base     *base
	begun    bool
}

func newCompiled() *compiled {
	return &compiled{
		items:       map[string]*item{},
		touched:     map[*item]bool{},
		inNamespace: map[string]map[*group]bool{},
		anywhere:    map[*group]bool{},
		ofNodes:     map[*group]bool{},
		profiles:    map[string]*profile{},
		sites:       map[string]*siteUse{},
	}
}

// use takes a share in the item of a key, which create makes if it is not there.
func (c *compiled) use(key string, create func() *item) *item {
	it := c.items[key]
	if it == nil {
		it = create()
		it.key = key
		c.items[key] = it
	}
	it.uses++
	c.touched[it] = true
	return it
}

// release gives a share back.
func (c *compiled) release(it *item) {
	it.uses--
	c.touched[it] = true
}

// hash is the name of what a text describes.
func hash(text ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(text, "\x00")))
	return hex.EncodeToString(sum[:8])
}

// index puts a group where changes find it.
func (c *compiled) index(g *group) {
	switch {
	case !g.followsPods():
		c.ofNodes[g] = true
	case g.pods != nil && g.pods.namespace != "":
		in := c.inNamespace[g.pods.namespace]
		if in == nil {
			in = map[*group]bool{}
			c.inNamespace[g.pods.namespace] = in
		}
		in[g] = true
	default:
		c.anywhere[g] = true
	}
}

func (c *compiled) unindex(g *group) {
	delete(c.ofNodes, g)
	delete(c.anywhere, g)
	if g.pods != nil {
		in := c.inNamespace[g.pods.namespace]
		delete(in, g)
		if len(in) == 0 {
			delete(c.inNamespace, g.pods.namespace)
		}
	}
}
