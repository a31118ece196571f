-- wrk: POSTs events of which no two are the same, at the present time, as in life.
--   EVENTS=100  events a request; 1 sends to /events, more to /events/batch
--   KEY=…       API key
--   RUN=…       makes ids differ from those of every other run
-- At the end it prints one line for run.py: requests by status, duration, latencies.

local events = tonumber(os.getenv('EVENTS') or '1')
local run_name = os.getenv('RUN') or tostring(os.time())
local path = events == 1 and '/events' or '/events/batch'
local headers = { ['content-type'] = 'application/json', ['x-api-key'] = os.getenv('KEY') }
local shape = '{"id":"%s-@-%d","type":"%s","source":"bench","subject":"user_%d",' ..
  '"time":"#.%03dZ","data":{"path":"/p/%d","ref":"search","n":%d,"ok":true,' ..
  '"text":"the quick brown fox jumps over the lazy dog"}}'
local types = { 'page_view', 'click', 'signup', 'purchase' }

local parts = {}
for i = 1, events do
  parts[i] = string.format(
    shape, run_name, i, types[i % 4 + 1], i * 37 % 1000, i % 1000, i % 50, i)
end
local template = events == 1 and parts[1] or '[' .. table.concat(parts, ',') .. ']'

local threads = 0
function setup(thread)
  threads = threads + 1
  thread:set('number', threads)
end

local sent, second, moment = 0, 0, ''
function request()
  sent = sent + 1
  local now = os.time()
  if now ~= second then
    second, moment = now, os.date('!%Y-%m-%dT%H:%M:%S', now)
  end
  local body = template:gsub('[@#]', { ['@'] = number .. '-' .. sent, ['#'] = moment })
  return wrk.format('POST', path, headers, body)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"failed":%d,"duration_s":%.3f,"p50_ms":%.3f,"p99_ms":%.3f}\n',
    summary.requests,
    errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1000, latency:percentile(99) / 1000))
end
