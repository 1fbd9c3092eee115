import asyncio
import unittest


class TestLife(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        print("setUpClass")
        cls.value = 1
        cls.addClassCleanup(print, "class cleanup")

    @classmethod
    def tearDownClass(cls):
        print("tearDownClass")

    def setUp(self):
        print("setUp")
        self.addCleanup(print, "cleanup")

    def tearDown(self):
        print("tearDown")

    def test_passes(self):
        self.assertEqual(self.value, 1)

    def test_fails(self):
        self.assertEqual(self.value, 2)

    def test_errors(self):
        raise RuntimeError("x")

    def test_skips(self):
        self.skipTest("why")

    @unittest.skip("mark")
    def test_skipped(self):
        pass

    @unittest.expectedFailure
    def test_expected(self):
        self.fail("x")

    @unittest.expectedFailure
    def test_unexpected(self):
        pass

    def test_subtests(self):
        for number in range(3):
            with self.subTest(number=number):
                print("sub", number)
                self.assertNotEqual(number, 1)

    def test_subtest_skip(self):
        with self.subTest("message"):
            self.skipTest("in subtest")


class TestBadTearDown(unittest.TestCase):
    def tearDown(self):
        raise RuntimeError("tearDown")

    def test_it(self):
        pass


class TestBadClass(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        raise RuntimeError("setUpClass")

    def test_1(self):
        pass

    def test_2(self):
        pass


class TestBadClassEnd(unittest.TestCase):
    @classmethod
    def tearDownClass(cls):
        raise RuntimeError("tearDownClass")

    def test_1(self):
        pass


@unittest.skip("whole class")
class TestSkipped(unittest.TestCase):
    def test_1(self):
        pass


class TestAsync(unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        self.value = 1
        asyncio.get_running_loop().slow_callback_duration = 60  # debug mode logs what a busy machine makes slow

    async def test_passes(self):
        self.assertEqual(self.value, 1)

    async def test_fails(self):
        self.assertEqual(self.value, 2)
