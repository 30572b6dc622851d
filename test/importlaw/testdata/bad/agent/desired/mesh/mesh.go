package mesh

import (
	"os"
	"time"

	_ "github.com/weftnet/weftnet/agent/desired/good"
	"github.com/weftnet/weftnet/agent/desired/helper"
	_ "github.com/weftnet/weftnet/agent/kernel/wg"
	_ "github.com/weftnet/weftnet/agent/source"
)

// Plan breaks the law in every line.
func Plan() (string, time.Duration) {
	name, _ := os.Hostname()
	return name, helper.Age(time.Now())
}
